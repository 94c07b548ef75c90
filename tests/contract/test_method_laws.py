"""Laws of every registered inversion and editor, of their batches, and of anchors; a new file is tested unasked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SOURCE, TARGET, build_tiny, build_tower, gap, load_tiny, watch_walk

import reinvert
from reinvert import pairs, registry
from reinvert.inversions.base import Inversion, Progress, Source
from reinvert.trajectory import Trajectory

STEPS = 4
EXACT = 1e-9
"""float64: sums run in another order in another batch (1e-16), which a guided walk here multiplies by up to 1e4."""
LEARNED = 1e-4
"""Where a method learns in float32 by Adam, which turns a rounding error of a tiny gradient into one of its step."""

UNET = load_tiny(build_tiny(Path(tempfile.mkdtemp()) / "tiny-eps"))
"""A model like the fixtures', there before they are. What it cannot serve has its laws in test_families and in
test_flow_methods."""


def on_a_unet(group: registry.Group) -> tuple[str, ...]:
    return tuple(name for name in registry.names(group) if registry.make(group, name).lacks(UNET) is None)


INVERSIONS = on_a_unet("inversions")
EDITORS = on_a_unet("editors")
MATRIX = pairs.matrix(UNET)
TOWER = build_tower(Path(tempfile.mkdtemp()) / "tower")
CHEAP: dict[str, dict] = {
    "null_text": {"inner": 3},
    "text_embedding": {"inner": 3},
    "style_diffusion": {"inner": 3, "encoder": str(TOWER)},
}
"""Arguments that keep a law cheap."""
WITH_NOISE = tuple(name for name in INVERSIONS if registry.find("inversions", name).finds_noise)
EXACT_RECONSTRUCTION = tuple(name for name in INVERSIONS if registry.find("inversions", name).exact)
TO_THE_BIT = ("direct", "none")
"""Exact without any arithmetic in between: the source is overwritten with what it was."""
GIVEN: dict[str, dict] = {
    "local_blend": {"source_words": ("cat",), "target_words": ("dog",), "threshold": 0.7},
    "diffedit": {"strength": 1.0, "maps": 2},
    "masactrl": {"start_step": 1, "start_layer": 0.3},
}
GIVEN_THE_SOURCE = {
    **GIVEN,
    "local_blend": {**GIVEN["local_blend"], "target_words": ("cat",)},
    "infedit": {"source_guidance": 7.5},  # equal scales are part of the law
    "turbo_edit": {"max_norm": 0.0},  # which else takes a part of the source's own step
    "pix2pix_zero": {"amount": 1e-5},  # on peaked maps a longer step multiplies what rounding leaves
}
"""What an editor cannot do without, or what makes it comparable with a whole walk; on the tiny model's flat maps a
threshold of 0.7 takes a part of the picture."""


def inversion(name: str) -> Inversion:
    return registry.make("inversions", name, CHEAP.get(name))


def tolerance(name: str) -> float:
    return LEARNED if name in CHEAP else EXACT


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS, seed=3)


class Once(dict[Any, Any]):
    """Makes what is asked for the first time, and keeps it: the tests below share inversions and edits."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: Any) -> Any:
        self[key] = self.make(key)
        return self[key]


@pytest.fixture(scope="module")
def paths(source) -> Mapping[str, Trajectory]:
    return Once(lambda name: inversion(name).invert(source))


@pytest.fixture(scope="module")
def alone(tiny64, paths) -> Mapping[str, list[torch.Tensor]]:
    """The source rendered without an edit, by inversion."""
    return Once(lambda by: watch_walk(tiny64, paths[by]))


@pytest.fixture(scope="module")
def edits(tiny64, paths) -> Mapping[tuple[str, str], list[torch.Tensor]]:
    """The edit to TARGET, by inversion and editor."""
    return Once(lambda pair: edited(tiny64, paths[pair[0]], [TARGET], pair[1]))


@pytest.fixture(scope="module")
def again(source) -> Mapping[str, tuple[list[Progress], Trajectory]]:
    """A second run of each inversion: the progress that it told, and its result."""

    def run(name: str) -> tuple[list[Progress], Trajectory]:
        generator, told = inversion(name).stages(source), []
        while True:
            try:
                told.append(next(generator))
            except StopIteration as end:
                return told, end.value

    return Once(run)


# --- inversions ----------------------------------------------------------------------------------------------


def rendered(model, path: Trajectory) -> torch.Tensor:
    """The source rendered again, [case, channel, h, w]; with no step to walk it is where it begins."""
    walked = watch_walk(model, path)
    return walked[-1][0] if walked else path.start


def error(model, path: Trajectory, clean: torch.Tensor) -> float:
    return float((rendered(model, path) - clean).square().mean().sqrt())


def partner(name: str) -> str:
    """An inversion that an editor can work on."""
    return "none" if registry.find("editors", name).draws_start else "direct"


def edited(model, path: Trajectory, targets, name: str, words=None, guidance: float = 7.5) -> list[torch.Tensor]:
    """An edit by the editor of that name, with what it cannot do without."""
    mask = None
    if registry.find("editors", name).needs_mask:
        mask = torch.zeros(path.path.shape[1], 1, *path.path.shape[-2:])
        mask[..., 8:] = 1
    return watch_walk(model, path, targets, [editor(name, words or GIVEN)], guidance, mask)


@pytest.mark.parametrize("name", INVERSIONS)
def test_replaying_the_source_reconstructs_it(tiny64, clean, paths, name: str) -> None:
    """Exactly where the method promises that, better than DDIM otherwise (at guidance 7.5, without an edit)."""
    ddim = error(tiny64, paths["ddim"], clean[:1])
    assert ddim > 0.1  # there is something to repair
    if name in TO_THE_BIT:
        assert torch.equal(rendered(tiny64, paths[name]), clean[:1])
    elif name in EXACT_RECONSTRUCTION:
        assert gap(rendered(tiny64, paths[name]), clean[:1]) < EXACT
    elif name not in REPAIRS_NOTHING:
        assert error(tiny64, paths[name], clean[:1]) < 0.95 * ddim


REPAIRS_NOTHING = {
    "ddim": "it is what the others are measured against",
    "fixed_point": "it leads back at the guidance it inverted with; at another one it drifts like DDIM",
    "regularised": "it moves the noise away from the one that leads back",
}


@pytest.mark.parametrize("name", ["direct"])
def test_exact_means_to_the_bit_in_float32_too(tiny, picture, name: str) -> None:
    path = reinvert.invert(tiny, picture, SOURCE, inversion=name, steps=STEPS)
    result = reinvert.edit(tiny, path, target=TARGET, blend=("cat", "dog"))
    assert torch.equal(result.latents[0], tiny.encode(as_tensor(picture))[0])


def as_tensor(picture) -> torch.Tensor:
    from reinvert.image import to_tensor

    return to_tensor([picture])


@pytest.mark.parametrize("name", WITH_NOISE)
def test_saving_loading_and_replaying_is_identical(tiny, picture, tmp_path: Path, name: str) -> None:
    made = reinvert.invert(tiny, picture, SOURCE, inversion=inversion(name), steps=3)
    made.save(tmp_path / "full.trajectory.safetensors")
    made.save(tmp_path / "half.trajectory.safetensors", half=True)
    wanted = reinvert.edit(tiny, made, target=TARGET).latents
    full = Trajectory.load(tmp_path / "full.trajectory.safetensors")
    assert torch.equal(reinvert.edit(tiny, full, target=TARGET).latents, wanted)
    half = Trajectory.load(tmp_path / "half.trajectory.safetensors")
    # float16 rounds the start by 2^-11 of its value; three guided steps multiply that by less than 100
    assert gap(half.path, made.path) < 2**-11 * max(1.0, made.path.abs().max().item())
    assert gap(reinvert.edit(tiny, half, target=TARGET).latents, wanted) < 100 * 2**-11


@pytest.mark.parametrize("name", INVERSIONS)
def test_the_same_seed_gives_the_same_result(paths, again, name: str) -> None:
    _, path = again[name]
    assert path is not paths[name]
    assert torch.equal(path.path, paths[name].path)
    assert (path.null is None) == (paths[name].null is None)
    if path.null is not None:
        assert torch.equal(path.null.tokens, paths[name].null.tokens)


@pytest.mark.parametrize("name", INVERSIONS)
def test_progress_counts_to_its_total(again, name: str) -> None:
    stages: dict[str, list[int]] = {}
    totals: dict[str, int] = {}
    for progress in again[name][0]:
        stages.setdefault(progress.stage, []).append(progress.done)
        totals[progress.stage] = progress.total
    assert stages
    assert all(done == list(range(1, totals[stage] + 1)) for stage, done in stages.items())


# --- editors -------------------------------------------------------------------------------------------------


def editor(name: str, words=GIVEN):
    return registry.make("editors", name, words.get(name))


def pairs_of(*inversions: str) -> list[tuple[str, str]]:
    """The legal pairs of these inversions with any editor."""
    return [(by, name) for by in inversions for name in EDITORS if MATRIX[by][name] is None]


NOT_THE_SAME = {
    "ledits": "its base is the unguided source; on a source under guidance the two scales differ",
    "sdedit": "it renders the noised picture freely; nothing ties it to the source",
    "blended_latent": "the same inside its mask",
    "pnp": "its null side hears a negative prompt",
}
"""Editors under which the source's own prompt is an edit."""


@pytest.mark.parametrize(("by", "name"), pairs_of("ddim", "negative_prompt", "none"))
def test_an_edit_to_the_same_prompt_is_no_edit(tiny64, paths, name: str, by: str) -> None:
    walked = edited(tiny64, paths[by], [SOURCE], name, GIVEN_THE_SOURCE)
    if name not in NOT_THE_SAME:
        assert max(gap(x[1], x[0]) for x in walked) < EXACT
    elif by != "negative_prompt":  # where both sides say the same, guidance cannot tell them apart
        assert gap(walked[-1][1], walked[-1][0]) > 1e-3


CHANGES_A_FREE_SOURCE = {
    "proximal": "the published rule thresholds the source's guidance as well, so where that is not zero the source "
    "row moves (methods page, 4.3); with negative-prompt inversion it is zero, and an anchor overwrites it",
    "diffedit": "it holds the source on the inverted path, which is the background it keeps",
    "pix2pix_zero": "its reference is the source without guidance: the source's null side hears the source's prompt",
    "pnp": "it holds a source that no anchor holds on the inverted path, and its source hears nothing",
}
IDLE = {("proximal", "negative_prompt"), ("pix2pix_zero", "negative_prompt"), ("pix2pix_zero", "null_text")}
"""Where the inversion has already given the null side something of its own to say."""
HELD = ("edict", "bdia")
"""Beside targets their source is held on its own path."""


@pytest.mark.parametrize(("by", "name"), pairs_of(*WITH_NOISE))
def test_an_editor_never_changes_the_source_row(paths, alone, edits, name: str, by: str) -> None:
    differences = [gap(a[0], b[0]) for a, b in zip(edits[by, name], alone[by], strict=True)]
    free = paths[by].pulled is None and by not in HELD
    idle = (name, by) in IDLE
    if name in CHANGES_A_FREE_SOURCE and free and not idle:
        assert max(differences) > 1e-3
    else:
        assert max(differences) < EXACT


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_changes_the_target(tiny64, paths, edits, name: str) -> None:
    by = partner(name)
    after = edits[by, name][-1]
    if by == "none":
        assert gap(after[1], after[0]) > 1e-2
    else:
        plain = watch_walk(tiny64, paths[by], [TARGET])[-1]
        assert (gap(after[1], plain[1]) > 1e-2) == (name != "prompt")


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_can_be_used_again(tiny64, paths, edits, name: str) -> None:
    """State belongs to one edit: the second is the same as the first."""
    first, second = edits[partner(name), name][-1], edited(tiny64, paths[partner(name)], [TARGET], name)[-1]
    assert torch.equal(first, second)


# --- batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_NOISE)
def test_cases_together_equal_cases_alone(tiny64, clean, name: str) -> None:
    prompts, targets = (SOURCE, "a red house near the river"), (TARGET, "a small house near the river")
    editors, steps = [registry.make("editors", "p2p"), registry.make("editors", "proximal")], 3
    together = inversion(name).invert(Source(tiny64, clean, prompts, steps))
    both = watch_walk(tiny64, together, [targets], editors)
    for i in range(2):
        alone = inversion(name).invert(Source(tiny64, clean[i : i + 1], prompts[i : i + 1], steps))
        one = watch_walk(tiny64, alone, [targets[i]], editors)
        assert gap(together.path[:, i], alone.path[:, 0]) < EXACT
        # proximal's quantile is taken in float32
        assert max(gap(a[:, i], b[:, 0]) for a, b in zip(both, one, strict=True)) < LEARNED
        picked = watch_walk(tiny64, together.case(i), [targets[i]], editors)
        assert max(gap(a[:, i], b[:, 0]) for a, b in zip(both, picked, strict=True)) < LEARNED


@pytest.mark.parametrize("name", EDITORS)
def test_edits_together_equal_edits_alone(tiny64, clean, name: str) -> None:
    prompts, targets = (SOURCE, "a big cat on the table"), (TARGET, "a big dog on the table")
    path = inversion(partner(name)).invert(Source(tiny64, clean, prompts, STEPS))
    both = edited(tiny64, path, [targets], name)
    for i in range(2):
        one = edited(tiny64, path.case(i), [targets[i]], name)
        assert max(gap(a[:, i], b[:, 0]) for a, b in zip(both, one, strict=True)) < LEARNED


@pytest.mark.parametrize("name", [name for name in EDITORS if name != "proximal"])
def test_targets_together_equal_targets_alone(tiny64, paths, name: str) -> None:
    """All but proximal, whose published quantile is taken over all branches together."""
    targets = [TARGET, "a big dog sitting on the table"]
    both = edited(tiny64, paths[partner(name)], targets, name)
    for i, target in enumerate(targets):
        one = edited(tiny64, paths[partner(name)], [target], name)
        assert max(gap(a[[0, 1 + i]], b) for a, b in zip(both, one, strict=True)) < EXACT


# --- anchors -------------------------------------------------------------------------------------------------


def test_an_anchor_of_strength_zero_changes_nothing(tiny64, source, paths) -> None:
    free = registry.make("inversions", "direct", {"strength": 0.0}).invert(source)
    for a, b in zip(
        watch_walk(tiny64, free, [TARGET], [editor("p2p")]),
        watch_walk(tiny64, paths["ddim"], [TARGET], [editor("p2p")]),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_carry_keeps_the_differences_between_rows(tiny64, source) -> None:
    """One step from the common start: the anchor moves both rows alike, so their difference is that of a free step."""
    one = Source(source.model, source.x0, source.prompts, 1)
    make = registry.make
    free = watch_walk(tiny64, make("inversions", "ddim").invert(one), [TARGET])[-1]
    for strength in (0.3, 1.0):
        arguments = {"carry": "source", "strength": strength}
        carried = watch_walk(tiny64, make("inversions", "direct", arguments).invert(one), [TARGET])[-1]
        assert gap(carried[1] - carried[0], free[1] - free[0]) < 1e-10
        assert gap(carried[0], free[0]) > 1e-4
