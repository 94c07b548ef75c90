"""Several workers at one run: processes of this machine, or Ray's actors, one per GPU or per share of the CPUs.

Workers get the plan and share nothing but the folder, whose claims keep two of them from doing the same cell. So a
worker can die at any moment: the others do what it had claimed. All run the same batches with the same number of
threads, and give the same bits as one process alone on such a device.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

import torch

from reinvert.backbones.loading import pick_device
from reinvert.bench.records import Records
from reinvert.bench.run.runner import Job, Share, work
from reinvert.errors import ReinvertError

LOOK: Final = 0.5
"""Seconds between two looks at the workers."""
PATIENCE: Final = 10.0
"""Seconds that a cluster has to answer."""
ROUNDS: Final = 3
"""How often workers are started while some die and cells are left."""


def work_here(job: Job, count: int = 1) -> Iterator[None]:
    """Do a job in this process, or in `count` processes of this machine; yields whenever something may be new.

    With several GPUs the processes take turns on them. Returns when nothing is left, or nobody is alive.
    """
    if count == 1:
        for _ in work(job):
            yield
        return
    spawning = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    threads = torch.get_num_threads()
    workers = [
        spawning.Process(target=_worker, args=(_placed(job, index), Share(index, count), threads), daemon=True)
        for index in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            next(worker for worker in workers if worker.is_alive()).join(LOOK)
            yield
    finally:
        for worker in workers:
            worker.terminate()


def _placed(job: Job, index: int) -> Job:
    device = pick_device(job.device)
    if str(device) != "cuda":  # a CPU, or a GPU that was named
        return job
    return replace(job, device=f"cuda:{index % torch.cuda.device_count()}")


def _worker(job: Job, share: Share, threads: int) -> int:
    """All that a worker does; how many cells it has recorded."""
    torch.set_num_threads(threads)
    return sum(1 for _ in work(job, share))


# --- Ray -----------------------------------------------------------------------------------------------------------


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise ReinvertError("Ray is not installed; pip install 'reinvert[ray]', or give --workers a number") from error


@contextmanager
def connected(address: str | None = None, **options: Any) -> Generator[str]:
    """Ray, begun here or joined at an address; the device that its workers have. Left as it was found."""
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _check_answer(address)
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address is None:
            # Workers must find this very code, also where it is not installed.
            path = os.pathsep.join(entry for entry in sys.path if entry)
            quiet |= {"include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        try:
            ray.init(address=address, **{**quiet, **options})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ReinvertError(f"there is no Ray at {address or 'this machine'}: {reason}") from error
    try:
        yield "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
    finally:
        if mine:
            ray.shutdown()


def _check_answer(address: str | None) -> None:
    """Ray itself waits minutes for a host and port at which nobody listens."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # none, or a word such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ReinvertError(f"there is no Ray at {address}: {error}") from error


def work_on_ray(job: Job, count: int | None = None) -> Iterator[None]:
    """Do a job on the cluster that is connected; yields whenever something may be new.

    One actor per GPU; without GPUs, one per as many CPUs as torch has threads here (`count`: so many). Every machine
    must see the run's folder, the data and the models at the same paths. Dead actors are replaced, while cells are
    left, up to a few times.
    """
    ray = _ray()
    actor = ray.remote(max_restarts=0)(_Actor)
    for _ in range(ROUNDS):
        actors = [actor.options(**share).remote() for share in _shares(ray.cluster_resources(), count)]
        threads = torch.get_num_threads()
        plan = ray.put(job)
        waiting = [a.work.remote(plan, Share(i, len(actors)), threads) for i, a in enumerate(actors)]
        errors: list[Exception] = []
        try:
            while waiting:
                done, waiting = ray.wait(waiting, timeout=LOOK)
                for reference in done:
                    try:
                        ray.get(reference)
                    except Exception as error:
                        errors.append(error)
                yield
        finally:
            for each in actors:
                ray.kill(each)
        if not _left(job):
            return
        own = [error for error in errors if not isinstance(error, ray.exceptions.RayActorError)]
        if own:  # not a death but an error, which would come again
            raise getattr(own[0], "cause", None) or own[0]


class _Actor:
    """Ray's process. It is a worker like any other."""

    def work(self, job: Job, share: Share, threads: int) -> int:
        return _worker(job, share, threads)

    def pid(self) -> int:
        return os.getpid()


def _shares(resources: dict[str, float], count: int | None) -> list[dict[str, int]]:
    """What each actor asks the cluster for."""
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    if gpus:
        return [{"num_gpus": 1, "num_cpus": 0}] * (count or gpus)
    number = count or max(1, cpus // torch.get_num_threads())
    return [{"num_cpus": max(1, math.floor(cpus / number))}] * min(number, cpus)


def _left(job: Job) -> bool:
    found = Records(job.folder).refresh()
    return any(cell.key not in found for cell in job.plan.cells)
