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
from reinvert.inversions.base import Source
from reinvert.verbs import prepared_edit

FEW, MORE = 4, 6
"""Steps of two walks: what the longer one does more often is done in its steps."""
LEFT: dict[tuple[str, str, str], str] = {}
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
        by = "kv_inv" if name == "kv_edit" else by
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
