"""No step waits for its device: nothing in it reads the device's values or copies to it, but for what is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from conftest import SOURCE, TARGET
from host_reads import OnDevice, Watch, on_device
from test_method_laws import CHEAP, GIVEN, UNET

from reinvert import loop, registry
from reinvert.backbones.loading import families
from reinvert.errors import NonFiniteError
from reinvert.inversions.base import Source
from reinvert.level import Level, Moment
from reinvert.loop import Finite, State
from reinvert.verbs import prepared_edit

FEW, MORE = 4, 6
"""Steps of two walks: what the longer one does more often is done in its steps."""
STOPS = "whether a case has learned enough decides what is computed next"
LEFT = {
    ("null_text", "tolist", "inversions/null_text.py:descend"): STOPS,
    ("text_embedding", "tolist", "inversions/null_text.py:descend"): STOPS,
    ("style_diffusion", "tolist", "inversions/null_text.py:descend"): STOPS,
    (
        "style_diffusion",
        "cpu",
        "inversions/style_diffusion.py:<lambda>",
    ): "the maps of all steps are too large for the device",
    (
        "style_diffusion",
        "to",
        "inversions/style_diffusion.py:_add",
    ): "and come back from the host, one step's at a time",
}
"""(method, what, where): what is left in a step, and why."""
FLUX = families()["flux"].tiny()
USED = {"stable_diffusion": UNET, "flux": FLUX}
METHODS = [
    (family, group, name)
    for family, model in USED.items()
    for group in ("inversions", "editors")
    for name in registry.names(group)
    if registry.make(group, name).lacks(model) is None and (family == "stable_diffusion" or name not in CHEAP)
]


def waits(work: Callable[[int], object]) -> dict[tuple[str, str], int]:
    """What is done more often in more steps, as (what, where)."""
    seen: list[Counter[tuple[str, str]]] = []
    for steps in (FEW, MORE):
        with Watch() as watch:
            work(steps)
        seen.append(watch.seen)
    return {key: n for key, n in (seen[1] - seen[0]).items() if n > 0}


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_read_every", lambda device: loop.READ_EVERY)


def method(group: registry.Group, name: str):
    return registry.make(group, name, (CHEAP if group == "inversions" else GIVEN).get(name))


def source(model, steps: int) -> Source:
    channels, h, w = model.latent_shape
    x0 = torch.randn(1, channels, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Source(model, on_device(x0), (SOURCE,), steps, 3.0, seed=1, pictures=torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(("family", "group", "name"), METHODS)
def test_a_step_waits_for_nothing_but_what_is_listed(family: str, group: registry.Group, name: str) -> None:
    model = USED[family]

    def invert(steps: int) -> None:
        made = method("inversions", name).invert(source(model, steps))
        for _, state in made.walk(model, [(TARGET,)], None, 3.0):
            assert isinstance(state.x, OnDevice)

    def edit(steps: int) -> None:
        editor = method("editors", name)
        by = "none" if editor.draws_start else "direct"
        by = {"kv_edit": "kv_inv", "dna_edit": "dna"}.get(name, by)
        made = method("inversions", by).invert(source(model, steps))
        mask = None
        if editor.needs_mask or name == "masactrl":
            mask = torch.zeros(1, 1, *made.path.shape[-2:])
            mask[..., 8:] = 1
        trajectory, hooks = prepared_edit(model, made, (editor,), ((TARGET,),), mask, 0)
        for _, state in trajectory.walk(model, [(TARGET,)], hooks, 3.0):
            assert isinstance(state.x, OnDevice)

    found = waits(invert if group == "inversions" else edit)
    left = {key for key in found if (name, *key) not in LEFT}
    assert not left


def test_what_is_listed_is_still_there() -> None:
    """The list names nothing that is gone."""
    names = {name for group in ("inversions", "editors") for name in registry.names(group)}
    assert {method for method, _, _ in LEFT} <= names


@pytest.mark.parametrize("bad", [2, 9, 13, 24])
def test_the_first_bad_step_is_named_however_late_it_is_read(bad: int) -> None:
    level, finite = Level(0.5, 0.5), Finite("a walk", 10)
    checked: list[int] = []

    def step(index: int) -> None:
        x = torch.zeros(2, 1, 3, 4, 4)
        if index >= bad:
            x[1, 0, 0, 0, 0] = float("nan")
        checked.append(index)
        finite.check(State((torch.zeros_like(x), x)), Moment(index, 25, 1, 0, level, level))

    with pytest.raises(NonFiniteError, match=f"step {bad + 1} of 25 of a walk") as caught:
        list(map(step, range(25)))
    assert caught.value.index == bad
    assert checked[-1] == min(24, bad // 10 * 10 + 9)
