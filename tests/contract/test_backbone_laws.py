"""Laws of every backbone, run on the tiny models (noise- and v-predicting)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.backbones import families as registry
from reinvert.backbones import stable_diffusion
from reinvert.backbones.loading import families, family_of
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.hooks import Hooks
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
from reinvert.level import Moment
from reinvert.loop import Call, Row, moments
from reinvert.text import Side, Text


@pytest.fixture(scope="module", params=["tiny64", "tiny_v64", *(f for f in families() if f != "stable_diffusion")])
def model(request):
    """The tests' own Stable Diffusions, and the tiny model of every other family, entry points included."""
    if request.param in families():
        return families()[request.param].tiny()
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def x(model) -> torch.Tensor:
    return torch.randn(4, 2, *model.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def picture_latents(x) -> torch.Tensor:
    """[case, channel, h, w], smooth like those of a picture."""
    small = torch.nn.functional.avg_pool2d(x[0, :1], 4)
    return torch.nn.functional.interpolate(small, x.shape[-2:], mode="bicubic")


@pytest.fixture(scope="module")
def middle(model) -> Moment:
    """A step down in the middle of the run."""
    return list(moments(model, model.times(5)))[2]


def said(model) -> Text:
    """[row, case] of four rows, null side first."""
    return model.encode_text(["", "", SOURCE, TARGET])[:, None].expand(4, 2)


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
    """x_s -> x_t by one answer undoes x_t -> x_s by the same: exactly where it is noise or a velocity, to second
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


def test_rows_one_by_one_equal_all_together(model, x, middle) -> None:
    text = said(model)
    together = model.answer(x, text, middle.ask, None)
    assert together.shape == x.shape
    assert together.dtype == x.dtype
    for i in range(4):
        assert gap(model.answer(x[i : i + 1], text[i : i + 1], middle.ask, None), together[i : i + 1]) < 1e-10
        for case in range(2):
            one = text[i : i + 1, case : case + 1]
            alone = model.answer(x[i : i + 1, case : case + 1], one, middle.ask, None)
            assert gap(alone[0, 0], together[i, case]) < 1e-10


def test_text_and_time_matter(model, x, middle) -> None:
    text, noisier = said(model), model.times(5)[0]
    answer = model.answer(x[:1], text[3:], middle.ask, None)
    assert gap(model.answer(x[:1], text[2:3], middle.ask, None), answer) > 1e-3
    assert gap(model.answer(x[:1], text[3:], noisier, None), answer) > 1e-4


class Everywhere(Hooks):
    """Plain attention, the long way: through the rules."""

    def touches(self, kind, moment) -> bool:
        return True


def test_a_rule_that_does_nothing_changes_nothing(model, x, middle) -> None:
    text = said(model)
    rows = tuple(Row(side, branch) for side in Side for branch in (0, 1))
    plain = model.answer(x, text, middle.ask, None)
    with model.attending():
        ruled = model.answer(x, text, middle.ask, Call(rows, {}, middle, Everywhere()))
        quiet = model.answer(x, text, middle.ask, Call(rows, {}, middle, Hooks()))
    assert gap(ruled, plain) < 1e-12
    assert gap(quiet, plain) < 1e-12


def test_sides_one_by_one_equal_both_together(model, x, middle) -> None:
    text = said(model)
    rows = tuple(Row(side, branch) for side in Side for branch in (0, 1))
    with model.attending():
        together = model.answer(x, text, middle.ask, Call(rows, {}, middle, Everywhere()))
        for i in (0, 2):
            call = Call(rows[i : i + 2], {}, middle, Everywhere())
            assert gap(model.answer(x[i : i + 2], text[i : i + 2], middle.ask, call), together[i : i + 2]) < 1e-10


def state(model) -> dict[str, object]:
    """Everything that reinvert could leave behind in the network."""
    network = model.network
    hooks = {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in network.named_modules()}
    fields = {n: set(vars(m)) for n, m in network.named_modules()}
    processors = {k: id(p) for k, p in network.attn_processors.items()}
    weights = {n: (p.data_ptr(), p._version, p.grad, p.requires_grad) for n, p in network.named_parameters()}
    return {"hooks": hooks, "fields": fields, "processors": processors, "weights": weights}


def module_of(model) -> str:
    """A module whose output is a picture's features, [row, channel, h, w]."""
    name = "mid_block.resnets.0"
    if name not in dict(model.network.named_modules()):
        pytest.skip("features of a transformer are no pictures")
    return name


@pytest.mark.parametrize("failing", [False, True])
def test_the_network_is_as_it_was_also_after_an_exception(model, x, picture_latents, middle, failing: bool) -> None:
    last_layer = model.layers()[-1].name

    class Failing(Hooks):
        def touches(self, kind, moment) -> bool:
            return True

        def attend(self, q, k, v, site, inner=None):
            if failing and site.layer.name == last_layer:
                raise RuntimeError("on purpose")
            return super().attend(q, k, v, site)

    before, answer = state(model), model.answer(x, said(model), middle.ask, None)
    path = Direct().invert(Source(model, picture_latents, (SOURCE,), 2))
    walked = path.walk(model, ((TARGET,),), Failing())
    if failing:
        with pytest.raises(RuntimeError, match="on purpose"):
            next(walked)
    else:
        assert len(list(walked)) == 2
    assert state(model) == before
    assert torch.equal(model.answer(x, said(model), middle.ask, None), answer)


@pytest.mark.parametrize("failing", [False, True])
def test_features_and_maps_leave_nothing_behind(model, picture_latents, failing: bool) -> None:
    name = module_of(model)

    class Failing(Everywhere):
        def features(self):
            return (name,)

        def feature(self, h, name, side, branches, moment):
            if failing:
                raise RuntimeError("on purpose")
            return h

    before = state(model)
    path = Direct().invert(Source(model, picture_latents, (SOURCE,), 2))
    walked = path.walk(model, ((TARGET,),), Failing())
    if failing:
        with pytest.raises(RuntimeError, match="on purpose"):
            next(walked)
    else:
        assert len(list(walked)) == 2
    watch_walk(model, path, [TARGET], [P2P(), LocalBlend(("cat",), ("dog",), grid=8)])
    assert state(model) == before


def test_features_see_every_side_and_can_be_replaced(model, picture_latents) -> None:
    seen, module = set(), module_of(model)

    class Zero(Hooks):
        def features(self):
            return (module,)

        def feature(self, h, name, side, branches, moment):
            seen.add((name, side, branches, h.shape[:2], h.ndim))
            return torch.zeros_like(h)

    path = Direct(strength=0.0).invert(Source(model, picture_latents, (SOURCE,), 1))
    (_, replaced), (_, plain) = *path.walk(model, ((TARGET,),), Zero()), *path.walk(model, ((TARGET,),))
    assert seen == {(module, side, (0, 1), (2, 1), 5) for side in Side}
    assert gap(replaced.x, plain.x) > 1e-4


def test_direct_inversion_brings_the_source_back_to_the_bit(model, picture_latents) -> None:
    path = Direct().invert(Source(model, picture_latents, (SOURCE,), 4))
    walked = watch_walk(model, path, [TARGET])
    assert torch.equal(walked[-1][0], picture_latents)
    assert gap(walked[-1][1], walked[-1][0]) > 1e-3


def test_a_fingerprint_knows_its_own_weights_and_no_others(model, tiny, parity_model) -> None:
    assert model.fingerprint().matches(model.fingerprint())
    assert not model.fingerprint().matches(parity_model.fingerprint())
    assert model.fingerprint().matches(tiny.fingerprint()) == (model.name == "tiny-eps")


def test_every_family_reads_what_it_says(tmp_path: Path) -> None:
    """An index of a family's own class names is its own; its tiny model is in float64."""
    for name, family in families().items():
        index = {"_class_name": family.pipelines[0]} | {p: ["x", classes[0]] for p, classes in family.parts.items()}
        assert family_of(index, name) is family
        assert family_of(index | dict.fromkeys(family.optional), name) is family
        assert family.tiny().dtype == torch.float64


def test_a_family_from_outside_is_found(monkeypatch) -> None:
    class Point:
        name = "from_outside"

        def load(self):
            return replace(stable_diffusion.FAMILY, title="Other")

    real = registry.entry_points
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [Point()] if "backbones" in group else real(group=group)
    )
    assert families.__wrapped__()["from_outside"].title == "Other"
