"""Laws of every backbone, run on the tiny models (noise- and v-predicting)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.hooks import Hooks
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
from reinvert.level import Moment
from reinvert.loop import Call, Row, moments
from reinvert.text import Side, Text


@pytest.fixture(params=["tiny64", "tiny_v64"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def said(model) -> Text:
    """[row, case, token, dim] of four rows, null side first."""
    keys = model.encode_text(["", "", SOURCE, TARGET]).keys
    return Text(keys[:, None].expand(-1, 2, -1, -1))


def test_a_split_is_the_latent_at_its_own_level(model, x) -> None:
    """On the way down and up, and where a step asks somewhere else."""
    text, times = said(model), model.times(5)
    for moment in (*moments(model, times), *moments(model, times[::-1])):
        for asked in (moment, moment.asking(moment.t), moment.asking(times[2])):
            split = model.split(x, model.answer(x, text, asked.ask, None), asked)
            assert gap(split.at(moment.level), x) < 1e-12


def test_a_whole_grid_is_finite_at_both_ends(model, x) -> None:
    """The noisiest level may hold no signal at all."""
    text, times = said(model), model.times(5)
    for moment in (*moments(model, times), *moments(model, times[::-1])):
        split = model.split(x, model.answer(x, text, moment.ask, None), moment)
        assert all(bool(torch.isfinite(y).all()) for y in (split.clean, split.noise, split.at(moment.next_level)))


def test_up_with_the_answers_of_the_way_down_returns(model, x) -> None:
    """x_s -> x_t by one answer undoes x_t -> x_s by the same: exactly where the answer is noise or a velocity, to second
    order of the angle between the levels where it is v (which is read at the level that the network was told)."""
    text, times = said(model), model.times(500)
    for t, s in list(pairwise(times))[:: len(times) // 5]:
        answer = model.answer(x, text, t, None)
        down, up = next(iter(moments(model, (t, s)))), next(iter(moments(model, (s, t))))
        there = model.split(x, answer, down).at(down.next_level)
        back = model.split(there, answer, up).at(up.next_level)
        angle = math.atan2(*down.level) - math.atan2(*down.next_level)
        assert gap(back, x) < max(1e-9, 10 * angle**2)
        assert gap(there, x) > 1e-5


def test_rows_one_by_one_equal_all_together(model, x) -> None:
    text = said(model)
    together = model.answer(x, text, 501, None)
    for i in range(4):
        assert gap(model.answer(x[i : i + 1], text[i : i + 1], 501, None), together[i : i + 1]) < 1e-10
        for case in range(2):
            one = Text(text.keys[i : i + 1, case : case + 1])
            alone = model.answer(x[i : i + 1, case : case + 1], one, 501, None)
            assert gap(alone[0, 0], together[i, case]) < 1e-10


class Everywhere(Hooks):
    """Plain attention, the long way: through the rules."""

    def touches(self, kind, moment) -> bool:
        return True


def test_a_rule_that_does_nothing_changes_nothing(model, x) -> None:
    text = said(model)
    rows = tuple(Row(side, branch) for side in Side for branch in (0, 1))
    moment = Moment(0, 1, 501, 401, model.level(501), model.level(401))
    plain = model.answer(x, text, 501, None)
    with model.attending():
        ruled = model.answer(x, text, 501, Call(rows, {}, moment, Everywhere()))
        quiet = model.answer(x, text, 501, Call(rows, {}, moment, Hooks()))
    assert gap(ruled, plain) < 1e-12
    assert gap(quiet, plain) < 1e-12


def test_sides_one_by_one_equal_both_together(model, x) -> None:
    text = said(model)
    rows = tuple(Row(side, branch) for side in Side for branch in (0, 1))
    moment = Moment(0, 1, 501, 401, model.level(501), model.level(401))
    with model.attending():
        together = model.answer(x, text, 501, Call(rows, {}, moment, Everywhere()))
        for i in (0, 2):
            call = Call(rows[i : i + 2], {}, moment, Everywhere())
            assert gap(model.answer(x[i : i + 2], text[i : i + 2], 501, call), together[i : i + 2]) < 1e-10


def state(model) -> dict[str, object]:
    """Everything that reinvert could leave behind in the network."""
    hooks = {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.unet.named_modules()}
    fields = {n: set(vars(m)) for n, m in model.unet.named_modules()}
    processors = {k: id(p) for k, p in model.unet.attn_processors.items()}
    weights = {n: (p.data_ptr(), p._version, p.grad, p.requires_grad) for n, p in model.unet.named_parameters()}
    return {"hooks": hooks, "fields": fields, "processors": processors, "weights": weights}


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_as_it_was_also_after_an_exception(model, clean, x, failing: bool) -> None:
    class Failing(Hooks):
        def touches(self, kind, moment) -> bool:
            return True

        def features(self):
            return ("mid_block.resnets.0",)

        def attend(self, q, k, v, site, inner=None):
            if failing and site.layer.part == "up":
                raise RuntimeError("on purpose")
            return super().attend(q, k, v, site)

    before, answer = state(model), model.answer(x, said(model), 501, None)
    path = Direct().invert(Source(model, clean[:1], (SOURCE,), 2))
    walked = path.walk(model, ((TARGET,),), Failing())
    if failing:
        with pytest.raises(RuntimeError, match="on purpose"):
            next(walked)
    else:
        assert len(list(walked)) == 2
    watch_walk(model, path, [TARGET], [P2P(), LocalBlend(("cat",), ("dog",))])
    assert state(model) == before
    assert torch.equal(model.answer(x, said(model), 501, None), answer)


def test_features_see_every_side_and_can_be_replaced(model, clean) -> None:
    seen = set()

    class Zero(Hooks):
        def features(self):
            return ("mid_block.resnets.0",)

        def feature(self, h, name, side, branches, moment):
            seen.add((name, side, branches, h.shape))
            return torch.zeros_like(h)

    path = Direct(strength=0.0).invert(Source(model, clean[:1], (SOURCE,), 1))
    (_, replaced), (_, plain) = *path.walk(model, ((TARGET,),), Zero()), *path.walk(model, ((TARGET,),))
    assert seen == {("mid_block.resnets.0", side, (0, 1), (2, 1, 16, 8, 8)) for side in Side}
    assert gap(replaced.x, plain.x) > 1e-4


def test_a_fingerprint_knows_its_own_weights_and_no_others(model, tiny, parity_model) -> None:
    assert model.fingerprint().matches(model.fingerprint())
    assert not model.fingerprint().matches(parity_model.fingerprint())
    assert model.fingerprint().matches(tiny.fingerprint()) == (model.name == "tiny-eps")
