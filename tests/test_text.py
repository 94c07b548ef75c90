"""What a model is conditioned on: texts, sides, and the interpolation of embeddings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import SOURCE, gap

from reinvert.text import Conditioning, Side, Text, between, join, slerp, with_text


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_slerp_is_the_recorded_one(unit) -> None:
    start, empty = unit["text.3"][None], unit["text.0"][None]
    assert gap(slerp(start, empty, 0.5), unit["slerp_half_p1src_to_null"]) < 1e-5


def test_slerp_ends_where_it_should_and_stays_on_the_arc() -> None:
    start, end = random(0, 1, 5, 4), random(1, 1, 5, 4)
    assert gap(slerp(start, end, 0.0), start) < 1e-12
    assert gap(slerp(start, end, 1.0), end) < 1e-12
    # on unit vectors: unit length all the way, at equal angles
    a, b = start / start.norm(), end / end.norm()
    quarter, half = slerp(a, b, 0.25), slerp(a, b, 0.5)
    assert quarter.norm().item() == pytest.approx(1, abs=1e-12)
    angle = math.acos((a * b).sum().item())
    assert math.acos((a * quarter).sum().item()) == pytest.approx(angle / 4, abs=1e-9)
    assert math.acos((quarter * half).sum().item()) == pytest.approx(angle / 4, abs=1e-9)


def test_slerp_between_parallel_vectors_is_the_straight_line() -> None:
    start = random(0, 1, 5, 4)
    assert gap(slerp(start, start, 0.3), start) < 1e-12
    assert gap(slerp(start, 3 * start, 0.5), 2 * start) < 1e-12


def test_slerp_takes_every_case_by_itself() -> None:
    start, end = random(0, 3, 5, 4), random(1, 3, 5, 4)
    for i in range(3):
        assert torch.equal(slerp(start, end, 0.3)[i], slerp(start[i : i + 1], end[i : i + 1], 0.3)[0])


def test_joining_lets_keys_stand_in_for_missing_values() -> None:
    plain, learned = Text(random(0, 1, 5, 4)), Text(random(1, 1, 5, 4), values=random(2, 1, 5, 4))
    assert join([plain, plain]).values is None
    both = join([plain, learned])
    assert torch.equal(both.tokens, torch.cat([plain.tokens, learned.tokens]))
    assert both.values is not None
    assert torch.equal(both.values, torch.cat([plain.tokens, learned.values]))


def test_texts_are_the_same_only_if_keys_and_values_are() -> None:
    keys, values = random(0, 1, 5, 4), random(1, 1, 5, 4)
    assert Text(keys).same_as(Text(keys.clone()))
    assert not Text(keys).same_as(Text(keys + 1e-9))
    assert not Text(keys).same_as(Text(keys, values=values))
    assert not Text(keys, values=values).same_as(Text(keys, values=values + 1e-9))
    assert Text(keys, values=values).same_as(Text(keys.clone(), values=values.clone()))


def conditions(null: torch.Tensor | None = None, **more) -> Conditioning:
    return Conditioning(
        Text(random(0, 2, 1, 5, 4)), Text(random(1, 1, 5, 4)), None if null is None else Text(null), **more
    )


def test_the_null_side_hears_the_empty_prompt_or_what_was_learned() -> None:
    plain = conditions()
    for branch in (0, 1):
        assert torch.equal(plain.side(Side.NULL, branch, 3).tokens, plain.empty.tokens)
        assert torch.equal(plain.side(Side.TEXT, branch, 3).tokens, plain.text.tokens[branch])
    learned = random(2, 4, 1, 5, 4)
    shared, single = conditions(learned), conditions(learned, null_for_targets=False)
    for step in range(4):
        assert torch.equal(shared.side(Side.NULL, 1, step).tokens, learned[step])
        assert torch.equal(single.side(Side.NULL, 0, step).tokens, learned[step])
        assert torch.equal(single.side(Side.NULL, 1, step).tokens, single.empty.tokens)
    constant = conditions(learned[:1])
    assert torch.equal(constant.side(Side.NULL, 0, 3).tokens, learned[0])


def test_a_pooled_vector_goes_with_its_text() -> None:
    one, two = (Text(random(i, 2, 5, 4), random(10 + i, 2, 3)) for i in (0, 1))
    both = join([one, two])
    assert both.pooled is not None
    assert torch.equal(both[2:].pooled, two.pooled)
    assert join([one[:1], replace(one[1:], values=one.tokens[1:])]).pooled.shape == (2, 3)
    assert one.map(lambda t: 2 * t).same_as(Text(2 * one.tokens, 2 * one.pooled))
    assert not one.same_as(replace(one, pooled=two.pooled))
    assert not one.same_as(replace(one, pooled=None))
    wide = one[:, None].expand(2, 3)
    assert (wide.tokens.shape, wide.pooled.shape) == ((2, 3, 5, 4), (2, 3, 3))
    changed = with_text(Conditioning(wide.map(lambda t: t.transpose(0, 1)), one), 1, two)
    assert torch.equal(changed.text.pooled[1], two.pooled)
    assert torch.equal(changed.text.tokens[2], one.tokens)
    assert torch.equal(between(one, two, 0.0).pooled, one.pooled)
    assert gap(between(one, two, 1.0).pooled, two.pooled) < 1e-6
    # zeros, which some models have for no prompt, lie in no direction
    assert torch.isfinite(between(one, one.map(torch.zeros_like), 0.5).tokens).all()


def test_values_of_their_own_reach_the_network(tiny64) -> None:
    """`Text.values` replaces what the values of cross-attention are made of, and nothing else does."""
    text = tiny64.encode_text([SOURCE])[None]
    x = random(3, 1, 1, 3, 16, 16)
    with tiny64.attending():
        plain = tiny64.answer(x, text, 501, None)
        same = tiny64.answer(x, Text(text.tokens, values=text.tokens.clone()), 501, None)
        other = tiny64.answer(x, Text(text.tokens, values=2 * text.tokens), 501, None)
    assert gap(plain, same) < 1e-12
    assert gap(plain, other) > 1e-3
