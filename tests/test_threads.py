"""One model, several threads."""

from __future__ import annotations

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET

import reinvert
from reinvert.backbones.lock import check_busy
from reinvert.errors import BusyError, ReinvertError

EDITS = [
    {"target": target, **more}
    for target in (TARGET, "a red cat sitting on a table", "a cat lying on a big table", "two cats")
    for more in ({}, {"editor": "masactrl"}, {"editor": "p2p+proximal", "inversion": "negative_prompt"})
]


@pytest.fixture
def busy_threads():
    """The interpreter changes threads as often as it can."""
    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(former)


def test_edits_of_eight_threads_equal_the_same_edits_one_by_one(tiny, picture, busy_threads) -> None:
    def edit(which: int) -> reinvert.Result:
        return reinvert.edit(tiny, picture, source=SOURCE, steps=1, **EDITS[which])

    wanted = [edit(which) for which in range(len(EDITS))]
    order = [(which + thread) % len(EDITS) for which in range(len(EDITS)) for thread in range(8)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(edit, order))
    assert len(results) == 8 * 12
    for which, result in zip(order, results, strict=True):
        assert torch.equal(result.latents, wanted[which].latents), EDITS[which]
        assert (result.forwards, result.settings) == (wanted[which].forwards, wanted[which].settings)


def test_walks_of_two_threads_take_turns(tiny, picture, busy_threads) -> None:
    """A walk that is held by nobody between its steps stops nobody."""
    path = reinvert.invert(tiny, picture, SOURCE, steps=4)
    wanted = [state.x for _, state in path.walk(tiny, [(TARGET,)])]
    with ThreadPoolExecutor(4) as threads:
        walks = list(threads.map(lambda _: [state.x for _, state in path.walk(tiny, [(TARGET,)])], range(4)))
    for walk in walks:
        assert all(torch.equal(a, b) for a, b in zip(walk, wanted, strict=True))
    waiting = path.walk(tiny, [(TARGET,)])
    next(waiting)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(reinvert.edit, tiny, path, target=TARGET, editor="prompt")
        assert torch.equal(done.result(timeout=60).latents[1], wanted[-1][1, 0])
    assert torch.equal(next(waiting)[1].x, wanted[1])


def test_a_busy_model_raises_where_that_was_asked_for(tiny_folder: Path, picture) -> None:
    model = reinvert.load(tiny_folder, device="cpu", busy="raise")
    inside, done = threading.Event(), threading.Event()

    def slow(progress: reinvert.Progress) -> None:
        inside.set()
        assert done.wait(60)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(reinvert.edit, model, picture, source=SOURCE, target=TARGET, steps=2, watch=slow)
        assert inside.wait(60)
        try:
            for call in (
                lambda: reinvert.edit(model=model, image=picture, source=SOURCE, target=TARGET, steps=2),
                lambda: reinvert.invert(model, picture, SOURCE, steps=2),
                lambda: reinvert.reconstruct(model, picture, SOURCE, steps=2),
            ):
                with pytest.raises(BusyError, match="another thread is working on this model; try again later") as told:
                    call()
                assert isinstance(told.value, ReinvertError)
        finally:
            done.set()
        waited = first.result(timeout=60)
    after = reinvert.edit(model, picture, source=SOURCE, target=TARGET, steps=2)
    assert torch.equal(after.latents, waited.latents)


def test_an_edit_within_an_edit_of_the_same_thread_does_not_wait_for_itself(tiny, picture) -> None:
    inner: list[reinvert.Result] = []

    def again(progress: reinvert.Progress) -> None:
        if progress.stage == "editing" and not inner:
            inner.append(reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=2))

    outer = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=2, watch=again)
    assert torch.equal(inner[0].latents, outer.latents)


def test_busy_is_one_of_two_words_and_a_copy_has_its_own_lock(tiny) -> None:
    with pytest.raises(ReinvertError, match="busy is 'wait' or 'raise', not 'wiat'"):
        check_busy("wiat")
    with tiny.lock, ThreadPoolExecutor(1) as threads:
        other = copy.copy(tiny.lock)
        assert other.busy == "wait"
        assert threads.submit(lambda: other.__enter__() is other).result(timeout=60)
