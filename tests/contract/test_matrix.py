"""Every legal pair of a registered inversion and a registered editor is run; every other one says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import SOURCE, TARGET
from PIL import Image
from test_method_laws import CHEAP, GIVEN, UNET

import reinvert
from reinvert import pairs, registry
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor

STEPS = 4
RUN = {name: given for name, given in GIVEN.items() if name not in ("diffedit", "masactrl")}
"""The matrix tells of default arguments."""
MATRIX = pairs.matrix(UNET)
LEGAL = [(i, e) for i, row in MATRIX.items() for e, why in row.items() if why is None]
COVER = {
    *((i, "p2p") for i in MATRIX),
    *(("direct", e) for e in MATRIX["direct"]),
    *(("none", e) for e in MATRIX["none"]),
}
"""Every method once or twice; every pair walks in `test_an_editor_never_changes_the_source_row` too."""
ILLEGAL = [(i, e) for i, row in MATRIX.items() for e, why in row.items() if why is not None]
EXACT = {name for name in registry.names("inversions") if registry.find("inversions", name).exact}


def half_mask() -> Image.Image:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    return mask


MOST_SHAPES = 3
"""Batch shapes of one walk: each is a graph of its own where the network is compiled."""


@contextmanager
def batch_shapes(model) -> Iterator[set[tuple[int, ...]]]:
    """The shapes of the latents that the network is given meanwhile."""
    shapes: set[tuple[int, ...]] = set()
    handle = model.unet.register_forward_pre_hook(lambda module, given: shapes.add(tuple(given[0].shape)))
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def inverted(tiny, picture):
    """One inversion serves all its editors."""
    made: dict[str, reinvert.Trajectory] = {}

    def get(name: str) -> reinvert.Trajectory:
        if name not in made:
            method = registry.make("inversions", name, CHEAP.get(name))
            with batch_shapes(tiny) as shapes:
                made[name] = reinvert.invert(tiny, picture, SOURCE, inversion=method, steps=STEPS)
            assert len(shapes) <= MOST_SHAPES
        return made[name]

    return get


@pytest.mark.parametrize(
    ("inversion", "editor"),
    [pytest.param(*pair, marks=() if pair in COVER else pytest.mark.slow) for pair in LEGAL],
)
def test_a_legal_pair_runs(tiny, picture, inverted, inversion: str, editor: str) -> None:
    method = registry.make("editors", editor, RUN.get(editor))
    mask = half_mask() if method.needs_mask else None
    path = inverted(inversion)
    before = tiny.tally.copy()
    with batch_shapes(tiny) as shapes:
        result = reinvert.edit(tiny, path, target=TARGET, editor=[method], mask=mask, seed=1)
    assert 1 <= len(shapes) <= MOST_SHAPES
    assert bool(torch.isfinite(result.latents).all())
    assert tiny.tally.since(before).forwards == result.forwards > 0
    clean = tiny.encode(to_tensor([picture]))[0]
    assert float((result.latents[1] - clean).abs().max()) > 1e-3  # something was changed
    if inversion in EXACT:
        # what an exact inversion promises holds beside any editor: no rule changes the source
        assert float((result.latents[0] - clean).abs().max()) < 1e-5 * max(1.0, float(clean.abs().max()))
    # the network is as it was: nothing stays behind in it
    assert all(type(p).__name__ == "AttnProcessor2_0" for p in tiny.unet.attn_processors.values())
    assert not any(m._forward_hooks for m in tiny.unet.modules())


@pytest.mark.parametrize(("inversion", "editor"), ILLEGAL)
def test_an_illegal_pair_fails_before_any_computing(tiny, picture, inversion: str, editor: str) -> None:
    method = registry.make("editors", editor, RUN.get(editor))
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError) as error:
        reinvert.edit(
            tiny, picture, source=SOURCE, target=TARGET, inversion=inversion, editor=[method], mask=half_mask(),
            steps=STEPS,
        )  # fmt: skip
    assert str(error.value) == MATRIX[inversion][editor]
    assert tiny.tally.since(before).forwards == 0


def test_an_editor_that_needs_a_null_side_refuses_guidance_one(tiny, picture) -> None:
    needy = [n for n in registry.names("editors") if registry.find("editors", n).needs_guidance]
    for name in needy:
        with pytest.raises(ReinvertError, match="guidance 1"):
            reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor=name, guidance=1.0, steps=STEPS)
    assert needy
