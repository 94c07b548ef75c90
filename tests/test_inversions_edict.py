"""EDICT: exact up and down for even and odd step counts, against a textbook form, and its cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.edict import EDICT
from reinvert.loop import last


def both_ends(model, path) -> tuple[torch.Tensor, ...]:
    """The two latents after rendering the source again, without targets."""
    return tuple(x[0] for x in last(path.walk(model)).latents)


@pytest.mark.parametrize("steps", [5, 10])  # 4 and 8 steps are walked
@pytest.mark.parametrize("strength", [0.8, 1.0])  # 1.0: 5 (odd) and 10
def test_down_undoes_up(tiny64, clean, steps: int, strength: float) -> None:
    path = EDICT(strength=strength).invert(Source(tiny64, clean, (SOURCE, "a red house"), steps))
    assert gap(path.path[-1], path.kept["partner"][-1]) > 1e-6  # the pair has come apart
    x, y = both_ends(tiny64, path)
    assert gap(x, clean) < 1e-10
    assert gap(y, clean) < 1e-10


def test_a_float32_network_is_exact_as_well(tiny, picture) -> None:
    """What the network rounds it rounds alike both ways; the same rows go through it."""
    clean = tiny.encode(to_tensor([picture]))
    path = EDICT().invert(Source(tiny, clean, (SOURCE,), 10))
    assert path.path.dtype == torch.float64
    assert gap(both_ends(tiny, path)[0], clean) < 1e-10


def test_no_mixing_is_exact_and_another_order_is_not(tiny64, clean, monkeypatch) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), 5)
    assert gap(both_ends(tiny64, EDICT(mixing=1.0).invert(source))[0], clean[:1]) < 1e-10
    path = EDICT(strength=1.0).invert(source)  # 5 steps: an order counted from the wrong end is another order
    wrong = [y[0] for y in textbook_down(tiny64, path, SOURCE, 3.0, shift=1)]
    assert gap(wrong[0], clean[0]) > 1e-6


def textbook_down(model, path, prompt: str, guidance: float, shift: int = 0, p: float = 0.93):
    """The page's equations, with the two predictions of guidance asked one by one."""
    x, y = path.path[-1], path.kept["partner"][-1]
    said, empty = naive.encode(model, [prompt]), naive.encode(model, [""])

    def e(z, t):
        null, text = naive.ask(model, z, t, empty), naive.ask(model, z, t, said)
        return null + guidance * (text - null)

    for n, (t, s) in enumerate(zip(path.times[:-1], path.times[1:], strict=True)):
        hi, lo = naive.abar(t), naive.abar(s)
        a = (lo / hi) ** 0.5
        b = (1 - lo) ** 0.5 - (lo * (1 - hi) / hi) ** 0.5
        if (n + shift) % 2 == 0:
            x = a * x + b * e(y, t)
            y = a * y + b * e(x, t)
        else:
            y = a * y + b * e(x, t)
            x = a * x + b * e(y, t)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    return x, y


def test_an_edit_is_the_textbook_one(tiny64, clean) -> None:
    path = EDICT().invert(Source(tiny64, clean[:1], (SOURCE,), 5))
    assert path.times == (600, 400, 200, 0, -1)
    state = last(path.walk(tiny64, [(TARGET,)], guidance=4.0))
    wanted = textbook_down(tiny64, path, TARGET, 4.0)
    assert gap(state.latents[0][1], wanted[0]) < 1e-9
    assert gap(state.latents[1][1], wanted[1]) < 1e-9
    assert torch.equal(state.latents[0][0], clean[:1])


def test_what_is_needed_is_evaluated(tiny, picture) -> None:
    """Ten steps of which eight are walked, the last an identity: seven that ask twice."""
    asked = {"source": SOURCE, "target": TARGET, "inversion": "edict", "steps": 10, "guidance": 3.0}
    direct = reinvert.edit(tiny, picture, editor="prompt", **asked)
    assert direct.forwards == 7 * 2 * 2 + 7 * 2 * 2
    published = reinvert.edit(
        tiny, picture, editor="p2p", cross=1.0, self_attention=1.0, self_grid=1.0,
        **{**asked, "inversion": EDICT(compat="published")},
    )  # fmt: skip
    assert published.forwards == 7 * 2 * 2 + 7 * 2 * 3
    assert gap(direct.latents[1], published.latents[1]) > 1e-3


def test_published_reads_the_sources_prompt_on_the_targets_latents(tiny64, clean) -> None:
    """With the source's attention wholly taken over and equal prompts nothing changes, wherever it is read."""
    path = EDICT(compat="published").invert(Source(tiny64, clean[:1], (SOURCE,), 5))
    from reinvert.editors.p2p import P2P

    everywhere = P2P(cross=1.0, self_attention=1.0, self_grid=1.0)
    x = watch_walk(tiny64, path, [SOURCE], [everywhere], guidance=3.0)[-1]
    assert gap(x[1], clean[:1]) < 1e-9
    with pytest.raises(ReinvertError, match="one --target"):
        watch_walk(tiny64, path, [TARGET, SOURCE], [everywhere])


def test_wrong_settings_are_said_in_a_sentence() -> None:
    for wrong in ({"mixing": 0.0}, {"mixing": 1.5}, {"strength": 0.0}):
        with pytest.raises(ReinvertError, match="share"):
            EDICT(**wrong)
