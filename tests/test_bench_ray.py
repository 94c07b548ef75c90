"""The same run on a local Ray: the same bits as one process, also when a worker is killed. Needs `reinvert[ray]`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from bench_data import DDIM, MASACTRL, P2P, write_data, write_recipe
from test_bench_runner import images, told

from reinvert.bench.records import Records
from reinvert.bench.run.plan import Asked, open_plan
from reinvert.bench.run.ray_workers import connected, work_here, work_on_ray
from reinvert.bench.run.runner import Job, work
from reinvert.errors import ReinvertError


@pytest.fixture
def jobs(tmp_path: Path, tiny_folder: Path) -> tuple[Job, Job]:
    """Two jobs of the same plan, for two folders."""
    data = write_data(tmp_path / "data")
    bodies = {"p2p": P2P, "masactrl": MASACTRL, "ddim": DDIM}
    recipes = tuple(write_recipe(tmp_path, name, tiny_folder, body, steps=10) for name, body in bodies.items())
    made = [
        Job(open_plan(tmp_path / name, data, Asked(recipes, batch=1), device="cpu"), tmp_path / name, "cpu")
        for name in ("calm", "shared")
    ]
    return made[0], made[1]


def test_ray_with_a_worker_killed_midway(jobs: tuple[Job, Job]) -> None:
    pytest.importorskip("ray")
    calm, shared = jobs
    list(work(calm))
    killed: list[int] = []

    def kill() -> None:
        """One of the two, once something has been recorded."""
        until = time.monotonic() + 300
        while time.monotonic() < until and not killed:
            if Records(shared.folder).refresh() and (found := workers()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(len(Records(shared.folder).refresh()))
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    with connected(num_cpus=2, object_store_memory=80_000_000) as device:
        assert device == "cpu"
        killer.start()
        for _ in work_on_ray(shared, 2):
            pass
    killer.join()
    assert 0 < killed[0] < len(shared.plan.cells)
    assert images(shared.folder) == images(calm.folder)
    assert told(shared.folder) == told(calm.folder)
    assert len(told(shared.folder)) == len(shared.plan.cells)


def workers() -> list[int]:
    """The processes of Ray's actors that are at work, of this machine."""
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::_Actor.work"):
            found.append(int(place.name))
    return found


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(jobs: tuple[Job, Job]) -> None:
    calm, shared = jobs
    list(work(calm))
    for _ in work_here(shared, 2):
        pass
    assert images(shared.folder) == images(calm.folder)
    assert told(shared.folder) == told(calm.folder)


def test_no_ray_at_an_address() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ReinvertError, match=r"no Ray at 127\.0\.0\.1:1"), connected("127.0.0.1:1"):
        pass


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ReinvertError, match=r"reinvert\[ray\]"), connected():
        pass
