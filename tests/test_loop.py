"""The loop: what it yields, what it asks of the network, how much that costs, and when it stops."""

from __future__ import annotations

import pytest
import torch
from conftest import SOURCE, TARGET, gap

import reinvert
from reinvert import pairs, registry
from reinvert.anchor import Anchor
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.errors import NonFiniteError
from reinvert.hooks import Hooks, Row
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.negative_prompt import NegativePrompt
from reinvert.inversions.null_text import NullText
from reinvert.loop import State, last, moments, walk
from reinvert.steps import ddim
from reinvert.text import Conditioning, Side, Text


def conditions(model, *prompts: str) -> Conditioning:
    said = model.encode_text([*prompts, ""]).tokens
    return Conditioning(Text(said[:-1, None]), Text(said[-1:]))


def start(branches: int = 2) -> State:
    x = torch.randn(1, 1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return State((x.expand(branches, -1, -1, -1, -1).clone(),))


def test_the_loop_yields_every_step_and_computes_nothing_ahead(tiny64) -> None:
    before = tiny64.tally.copy()
    walked = walk(tiny64, tiny64.times(3), start(), conditions(tiny64, SOURCE, TARGET), guidance=(7.5, 7.5), step=ddim)
    assert tiny64.tally == before
    seen = []
    for moment, state in walked:
        seen.append((moment.index, moment.last, state.x.shape))
        assert tiny64.tally.since(before).forwards == 4 * len(seen)
    assert seen == [(i, i == 2, (2, 1, 3, 16, 16)) for i in range(3)]


def test_a_walk_that_is_left_early_leaves_the_network_alone(tiny64) -> None:
    former = dict(tiny64.unet.attn_processors)
    walked = walk(tiny64, tiny64.times(3), start(), conditions(tiny64, SOURCE, TARGET), guidance=(7.5, 7.5), step=ddim)
    next(walked)
    walked.close()
    assert all(tiny64.unet.attn_processors[k] is p for k, p in former.items())
    again = walk(tiny64, tiny64.times(1), start(), conditions(tiny64, SOURCE, TARGET), guidance=(1.0, 1.0), step=ddim)
    assert last(again).x.isfinite().all()


def test_the_guided_step_is_the_textbook_s(tiny64) -> None:
    said, state, w = conditions(tiny64, SOURCE, TARGET), start(), 3.0
    (moment, after), *_ = walk(tiny64, tiny64.times(2), state, said, guidance=(w, 1.0), step=ddim)
    null = tiny64.answer(state.x[:1], Text(said.empty.tokens[None]), moment.t, None)[0]
    text = tiny64.answer(state.x, said.text, moment.t, None)
    for branch, noise in ((0, null + w * (text[0] - null)), (1, text[1])):
        clean = (state.x[branch] - moment.level.noise * noise) / moment.level.signal
        wanted = moment.next_level.signal * clean + moment.next_level.noise * noise
        assert gap(after.x[branch], wanted) < 1e-10


class Asked(Hooks):
    """Sees the rows of every evaluation."""

    def __init__(self, sides: tuple[Side, ...] = ()) -> None:
        self.sides, self.rows = sides, list[tuple[Row, ...]]()

    def reads(self, moment):
        return self.sides

    def touches(self, kind, moment):
        return True

    def attend(self, q, k, v, site, inner=None):
        rows = tuple(Row(site.side, b) for b in site.branches)
        if site.layer.index == 0 and site.kind == "self":
            self.rows.append(rows)
        return super().attend(q, k, v, site)


N0, N1, T0, T1 = (Row(side, branch) for side in Side for branch in (0, 1))


@pytest.mark.parametrize(
    ("guidance", "anchored", "sides", "rows"),
    [
        ((7.5, 7.5), False, (), {N0, N1, T0, T1}),
        ((1.0, 1.0), False, (), {T0, T1}),
        ((0.0, 0.0), False, (), {N0, N1}),
        ((1.0, 7.5), False, (), {T0, N1, T1}),
        ((7.5, 7.5), True, (), {N1, T1}),
        ((7.5, 7.5), True, (Side.TEXT,), {N1, T0, T1}),
        ((7.5, 7.5), True, (Side.NULL,), {N0, N1, T1}),
        ((1.0, 1.0), True, (Side.TEXT,), {T0, T1}),
    ],
)
def test_only_rows_that_something_reads_are_evaluated(tiny64, guidance, anchored: bool, sides, rows) -> None:
    state, hooks, before = start(), Asked(sides), tiny64.tally.copy()
    anchor = Anchor(state.x[:1].expand(2, -1, -1, -1, -1)) if anchored else None
    said = conditions(tiny64, SOURCE, TARGET)
    last(walk(tiny64, tiny64.times(1), state, said, guidance=guidance, step=ddim, hooks=hooks, anchor=anchor))
    assert {row for seen in hooks.rows for row in seen} == rows
    assert tiny64.tally.since(before).forwards == len(rows)


def test_one_row_answers_for_both_sides_where_both_hear_the_same(tiny64) -> None:
    said = conditions(tiny64, SOURCE, TARGET)
    same = Conditioning(said.text, said.empty, said.text[:1])
    state, hooks, before = start(), Asked(), tiny64.tally.copy()
    x = last(walk(tiny64, tiny64.times(1), state, same, guidance=(7.5, 7.5), step=ddim, hooks=hooks)).x
    assert tiny64.tally.since(before).forwards == 3
    assert (N0, N1) in hooks.rows  # the rule of the null side still sees the source's row
    plain = last(walk(tiny64, tiny64.times(1), start(1), conditions(tiny64, SOURCE), guidance=(1.0,), step=ddim)).x
    assert gap(x[:1], plain) < 1e-10


def test_a_rule_sees_one_side_at_a_time_and_every_branch_of_it(tiny64) -> None:
    seen = set()

    class Shapes(Hooks):
        def touches(self, kind, moment):
            return True

        def attend(self, q, k, v, site, inner=None):
            seen.add((site.side, site.branches, site.kind, site.grid, site.latent, k.shape[3]))
            assert q.shape[:2] == (2, 1)
            assert q.shape[3] == site.grid[0] * site.grid[1]
            return super().attend(q, k, v, site)

    said = conditions(tiny64, SOURCE, TARGET)
    last(walk(tiny64, tiny64.times(1), start(), said, guidance=(7.5, 7.5), step=ddim, hooks=Shapes()))
    wanted = set()
    for side in Side:
        for grid in ((16, 16), (8, 8)):
            wanted |= {(side, (0, 1), "self", grid, (16, 16), grid[0] * grid[1])}
            wanted |= {(side, (0, 1), "cross", grid, (16, 16), 16)}
    assert seen == wanted


# --- forwards and backwards ----------------------------------------------------------------------------------


class Cheap:
    """Stands in for the UNet's forward: counts samples by itself, and answers something smooth and differentiable."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def __call__(self, sample, timestep, encoder_hidden_states, cross_attention_kwargs=None, return_dict=True):
        self.forwards += len(sample)
        out = 0.3 * sample + 0.1 * encoder_hidden_states.mean((1, 2))[:, None, None, None]
        if out.requires_grad:
            out.register_hook(self._count)
        return (out,)

    def _count(self, gradient):
        self.backwards += len(gradient)


def long(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


P2P_ROWS = 30
"""Of 50 steps P2P reads the source in the first 30 (self-attention 0.6); later its text row is dead as well."""


def expected(every: int = 1, null: bool = False, guidance: float = 7.5, free: bool = False) -> int:
    """Rows of an edit of 50 steps by P2P: what is asked at each, summed."""
    sides = 1 if guidance == 1 else 2
    total = 0
    for s in range(50):
        source = sides if free or s % every else (1 if s < P2P_ROWS else 0)
        total += source + sides
    return total


@pytest.mark.parametrize(
    ("inversion", "editor", "guidance", "forwards", "needed"),
    [
        (DDIM(), "p2p", 7.5, 50 + 200, 250),
        long(NegativePrompt(), "p2p", 7.5, 50 + 150, 200),
        (NegativePrompt(), "p2p+proximal", 7.5, 50 + 150, 200),
        (Direct(), "p2p", 7.5, 50 + expected(), 200),
        (Direct(), "prompt", 7.5, 50 + 100, 200),
        long(Direct(inversion_guidance=0.0), "p2p", 7.5, 50 + expected(), 200),
        (Direct(inversion_guidance=0.0), "p2p", 1.0, 50 + expected(guidance=1), 150),
        (Direct(inversion_guidance=2.5), "p2p", 7.5, 100 + expected(), 250),
        long(Direct(inversion_guidance=7.5), "p2p", 1.0, 100 + expected(guidance=1), 250),
        long(Direct(strength=0.4), "p2p", 7.5, 50 + 200, 250),
        long(Direct(strength=0.8), "p2p", 7.5, 50 + 200, 250),
        long(Direct(every=2), "p2p", 7.5, 50 + expected(2), 250),
        (Direct(every=24), "p2p", 7.5, 50 + expected(24), 250),
        long(Direct(every=49), "p2p", 7.5, 50 + expected(49), 250),
        long(Direct(carry="source"), "p2p", 7.5, 50 + 200, 250),
        (Direct(carry="target"), "p2p", 7.5, 50 + 100 + expected(), 300),
        long(Direct(strength=0.0), "p2p", 7.5, 50 + 200, 250),
    ],
    ids=lambda value: str(value),
)
def test_forwards_are_not_more_than_the_method_needs(
    tiny, picture, monkeypatch, inversion, editor: str, guidance: float, forwards: int, needed: int
) -> None:
    cheap = Cheap()
    monkeypatch.setattr(tiny.unet, "forward", cheap)
    run = {"source": SOURCE, "target": TARGET, "inversion": inversion, "editor": editor, "guidance": guidance}
    result = reinvert.edit(tiny, picture, **run)
    assert result.forwards == cheap.forwards == forwards
    assert forwards <= needed
    assert result.backwards == cheap.backwards == 0


def test_a_blend_reads_the_source_at_every_step(tiny, picture) -> None:
    """The full 4 N (50 x 4 = 200) of the table, with the real network at N = 5."""
    run = {"source": SOURCE, "target": TARGET, "steps": 5, "blend": ("cat", "dog")}
    assert reinvert.edit(tiny, picture, **run).forwards == 5 + 5 * 3


@pytest.mark.parametrize(
    ("inversion", "edit", "bound"),
    [
        (NullText(), 200, 850),
        long(NullText(single_branch=True), 200, 850),
        long(Direct(null_latent=True), expected(), 800),
    ],
    ids=lambda value: str(value),
)
def test_null_text_costs_what_its_inner_steps_cost(tiny, picture, monkeypatch, inversion, edit, bound) -> None:
    cheap = Cheap()
    monkeypatch.setattr(tiny.unet, "forward", cheap)
    result = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, inversion=inversion)
    inner = result.backwards
    assert result.backwards == cheap.backwards
    assert 50 <= inner <= 500  # at least one step each, at most ten
    assert result.forwards == cheap.forwards == 50 + (50 + inner + 50) + edit
    assert result.forwards <= bound


def test_cases_of_a_batch_are_counted_each(tiny, picture, other_picture, monkeypatch) -> None:
    monkeypatch.setattr(tiny.unet, "forward", Cheap())
    both = reinvert.edit(tiny, [picture, other_picture], source=[SOURCE] * 2, target=[TARGET] * 2)
    assert [r.forwards for r in both] == [2 * (50 + expected())] * 2


def test_several_targets_share_the_inversion_and_the_source(tiny, picture, monkeypatch) -> None:
    monkeypatch.setattr(tiny.unet, "forward", Cheap())
    result = reinvert.edit(tiny, picture, source=SOURCE, target=[TARGET, "a red house"])
    assert result.forwards == 50 + expected() + 100
    assert len(result.images) == 2


# --- what is not finite --------------------------------------------------------------------------------------


def test_a_latent_that_is_not_finite_stops_the_walk_at_once(tiny, picture, monkeypatch) -> None:
    class Breaking(Cheap):
        def __call__(self, sample, timestep, *args, **kwargs):
            (out,) = super().__call__(sample, timestep, *args, **kwargs)
            return (out * float("nan") if self.forwards > 5 + 2 * 4 else out,)

    cheap = Breaking()
    monkeypatch.setattr(tiny.unet, "forward", cheap)
    run = {"source": SOURCE, "target": TARGET, "inversion": "ddim", "editor": "prompt", "steps": 5}
    with pytest.raises(NonFiniteError, match="step 3 of 5 of the edit after ddim inversion") as caught:
        reinvert.edit(tiny, picture, **run)
    assert caught.value.index == 2
    assert "--dtype float32" in str(caught.value)
    assert cheap.forwards == 5 + 3 * 4  # nothing was asked after it
    assert isinstance(caught.value, reinvert.ReinvertError)


def test_an_inversion_that_breaks_names_itself(tiny, clean, monkeypatch) -> None:
    def infinite(sample, *args, **kwargs):
        return (sample / 0,)

    monkeypatch.setattr(tiny.unet, "forward", infinite)
    with pytest.raises(NonFiniteError, match="step 1 of 4 of DDIM inversion"):
        DDIM().invert(Source(tiny, clean[:1].float(), (SOURCE,), 4))


# --- a model without a null side ------------------------------------------------------------------------------


class Distilled:
    """A model that is told its guidance scale: what the network does with it is to add it to its answer."""

    null_side = False

    def __init__(self, model) -> None:
        self._model, self.asked = model, []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def answer(self, x, text, time, call, guidance=()):
        self.asked.append((None if call is None else call.rows, guidance))
        plain = self._model.answer(x, text, time, call)
        return plain + torch.tensor(guidance or [1.0], dtype=x.dtype).view(-1, 1, 1, 1, 1)


def test_guidance_is_an_input_where_there_is_no_null_side(tiny64) -> None:
    model, said = Distilled(tiny64), conditions(tiny64, SOURCE, TARGET)
    state, times = start(2), tiny64.times(1)
    after = last(walk(model, times, state, said, guidance=(1.5, 5.5), step=ddim)).x
    assert model.asked == [((Row(Side.TEXT, 0), Row(Side.TEXT, 1)), (1.5, 5.5))]
    moment = next(iter(moments(tiny64, times)))
    plain = tiny64.answer(state.x, said.text, moment.ask, None)
    for branch, scale in enumerate((1.5, 5.5)):
        wanted = tiny64.split(state.x[branch], plain[branch] + scale, moment).at(moment.next_level)
        assert gap(after[branch], wanted) < 1e-9


def test_a_rule_of_guidance_has_no_say_there(tiny64) -> None:
    class Loud(Hooks):
        def guide(self, null, text, scale, moment):
            raise AssertionError("there is nothing to combine")

    model = Distilled(tiny64)
    last(walk(model, tiny64.times(1), start(2), conditions(tiny64, SOURCE, TARGET), guidance=(0.0, 3.0), step=ddim,
              hooks=Loud()))  # fmt: skip
    assert model.asked == [((Row(Side.TEXT, 0), Row(Side.TEXT, 1)), (0.0, 3.0))]


def test_what_a_model_lacks_is_one_sentence(tiny64) -> None:
    class Joint(Distilled):
        kinds = frozenset({"joint"})

    distilled, joint = Distilled(tiny64), Joint(tiny64)
    for name in ("null_text", "negative_prompt", "text_embedding", "style_diffusion"):
        reason = pairs.why_not(registry.make("inversions", name), [P2P()], model=distilled)
        assert reason == f"inversion {name} learns the null side of guidance, which tiny-eps does not have"
        assert pairs.why_not(registry.make("inversions", name), [P2P()], model=tiny64) is None
    assert pairs.why_not(Direct(null_latent=True), [P2P()], model=distilled) is not None
    assert pairs.why_not(Direct(), [P2P()], model=distilled) is None
    for name in ("proximal", "ledits", "p2plus", "pix2pix_zero"):
        reason = pairs.why_not(DDIM(), [registry.make("editors", name)], model=distilled)
        assert reason == f"{name} acts on the null side of guidance, which tiny-eps does not have"
    reason = pairs.why_not(Direct(), [P2P()], model=joint)
    assert reason == (
        "p2p acts on self and cross attention, and tiny-eps has joint attention only; choose another editor"
    )
    # a mask takes the place of local_blend's maps
    assert pairs.why_not(Direct(), [LocalBlend(("cat",))], masked=True, model=joint) is None
    assert pairs.why_not(Direct(), [LocalBlend(("cat",))], masked=False, model=joint) is not None
    table = pairs.matrix(joint)
    assert table["direct"]["prompt"] is None
    assert table["direct"]["masactrl"] is not None
    assert table["null_text"]["prompt"] is not None


# --- what is computed once a walk ---------------------------------------------------------------------------------


def test_keys_and_values_of_a_text_are_computed_once_a_walk(tiny64) -> None:
    said = conditions(tiny64, SOURCE, TARGET)
    layer = tiny64.unet.get_submodule(next(x.name for x in tiny64.layers() if "attn2" in x.name))
    seen = list[int]()
    handle = layer.to_k.register_forward_hook(lambda *_: seen.append(1))

    def walked(conditioning: Conditioning) -> torch.Tensor:
        seen.clear()
        return last(walk(tiny64, tiny64.times(4), start(), conditioning, guidance=(7.5, 7.5), step=ddim)).x

    try:
        once = walked(said)
        assert len(seen) == 1
        # a null side of its own at every step is another text at every step
        null = Text(said.empty.tokens[None].repeat(4, 1, 1, 1))
        assert torch.equal(walked(Conditioning(said.text, said.empty, null)), once)
        assert len(seen) == 4
        null.tokens[2] += 1.0
        assert gap(walked(Conditioning(said.text, said.empty, null)), once) > 1e-6
    finally:
        handle.remove()
