"""StyleDiffusion against an independent loop (torch's own layers, full attention maps), and what section 7 promises."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import naive
import pytest
import torch
import torch.nn.functional as F
from conftest import SOURCE, TARGET, build_tower, gap, watch_walk
from metric_networks import clip_folder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel

import reinvert
from reinvert.backbones.vision import BUNDLED, load_tower, usual_tower
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.style_diffusion import StyleDiffusion, fresh, modulation
from reinvert.trajectory import Trajectory

STEPS, TOKENS, WIDTH, SEEN = 3, 16, 12, 5
"""Sampling steps; tokens and width of the tiny models' text; image tokens of the stand-in for a tower."""
ALIKE = 1e-4
"""Networks and models are float64 here, but not the text. Adam turns a rounding error of a gradient near 0 into one of
its step; the largest gap seen is 1e-5."""


@dataclass(frozen=True)
class StandIn(StyleDiffusion):
    """With features that no tower has to make, in float64."""

    width: int = WIDTH

    def features(self, source: Source) -> Tensor:
        made = torch.randn(1, SEEN, self.width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        # Other pictures are seen as others.
        return made * source.x0.double().flatten(1).std(1)[:, None, None]


def source_of(model, x0: Tensor, prompts=(SOURCE,), steps: int = STEPS, **more) -> Source:
    return Source(model, x0, tuple(prompts), steps, seed=5, **more)


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return source_of(tiny64, clean[:1])


def spent(source: Source, method: StyleDiffusion):
    before = source.model.tally.copy()
    made = method.invert(source)
    return made, source.model.tally.since(before)


# --- the naive form --------------------------------------------------------------------------------------------------


class Mapping(nn.Module):
    """The published network, with the biases that batch norm takes away again."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        out, seen = start["first"].shape
        self.width = nn.Linear(*reversed(start["width"].shape), bias=False) if "width" in start else None
        self.one, self.two, self.three = nn.Conv1d(seen, out, 1), nn.Conv1d(out, out, 1), nn.Conv1d(out, out, 1)
        self.norm, self.act = nn.BatchNorm1d(out), nn.LeakyReLU(0.01)
        self.double().train()
        with torch.no_grad():
            for layer, name in ((self.one, "first"), (self.two, "second"), (self.three, "third")):
                layer.weight.copy_(start[name][..., None])
            self.three.bias.copy_(start["third_bias"])
            if self.width is not None:
                self.width.weight.copy_(start["width"])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        h = features if self.width is None else self.width(features)
        h = self.three(self.act(self.norm(self.two(self.one(h)))))
        return h[:, :TOKENS], h[:, TOKENS:]


class Full:
    """A processor with values of their own, that builds every map and keeps those of the down and up blocks' 16x16."""

    def __init__(self, name: str, say: dict) -> None:
        self.name, self.say = name, say

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        crossing = encoder_hidden_states is not None
        said = encoder_hidden_states if crossing else hidden_states
        values = self.say["values"] if crossing and self.say["values"] is not None else said
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in
                   (attn.to_q(hidden_states), attn.to_k(said), attn.to_v(values)))  # fmt: skip
        maps = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
        if crossing and "mid" not in self.name and maps.shape[2] == 256:
            self.say["maps"].append(maps)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def slow(model, x0: Tensor, start: dict[str, Tensor], features: Tensor, inner: int, weight: float, w: float = 7.5):
    """(S, T by step, latents from z*_N on, inner steps taken, z*), written from section 7.1."""
    say: dict = {"values": None, "maps": []}
    former = dict(model.unet.attn_processors)
    model.unet.set_attn_processor({name: Full(name, say) for name in former})

    def ask(z: Tensor, t: int, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        say["values"], say["maps"] = values, []
        return naive.noise(model, z, t, keys), say["maps"]

    try:
        text, empty, taus = naive.encode(model, [SOURCE]), naive.encode(model, [""]), naive.times(STEPS)
        path, kept = [x0], []
        with torch.no_grad():
            for t in reversed(taus):
                e, maps = ask(path[-1], t, text)
                a, b = naive.coefficients(t, STEPS)
                path.append((path[-1] - b * e) / a)
                kept.append(maps)
        kept.append(kept[-1])
        net, z, said, followed, taken = Mapping(start), path[-1], [], [], []
        for s, t in enumerate(taus):
            a, b = naive.coefficients(t, STEPS)
            adam, count = torch.optim.Adam(net.parameters(), lr=0.01 * (1 - s / 100)), 0
            with torch.no_grad():
                e_u, _ = ask(z, t, empty)
            for _ in range(math.ceil(inner * math.exp(-0.1 * s))):
                scale, shift = net(features)
                e_c, maps = ask(z, t, text, text * scale + shift)
                loss = F.mse_loss(a * z + b * (e_u + w * (e_c - e_u)), path[STEPS - s - 1])
                assert len(maps) == 3
                loss = loss + weight * sum(F.mse_loss(m, n) for m, n in zip(maps, kept[STEPS - s], strict=True))
                adam.zero_grad()
                loss.backward()
                adam.step()
                count += 1
                if loss.item() < 1e-5 + 2e-5 * s:
                    break
            with torch.no_grad():
                scale, shift = net(features)
                e_c, _ = ask(z, t, text, text * scale + shift)
                z = a * z + b * (e_u + w * (e_c - e_u))
            said.append((scale[0], shift[0]))
            followed.append(z)
            taken.append(count)
        return said, followed, taken, path
    finally:
        model.unet.set_attn_processor(former)


@pytest.mark.parametrize(("width", "attention"), [(WIDTH, 1.0), (WIDTH, 0.0), (9, 1.0)])
def test_it_is_the_naive_loop(tiny64, source, width: int, attention: float) -> None:
    """Also with features of another width than the text's, and without the attention loss."""
    method = StandIn(inner=4, attention=attention, width=width)
    features, start = method.features(source), fresh((SEEN, width), (TOKENS, WIDTH), 5)
    said, followed, taken, path = slow(tiny64, source.x0, start, features, 4, attention)
    made, cost = spent(source, method)
    assert gap(made.path, torch.stack(path)) < 1e-9  # the path is the inversion's own
    for s, (scale, shift) in enumerate(said):
        assert gap(made.kept["scale"][s, 0], scale) < ALIKE
        assert gap(made.kept["shift"][s, 0], shift) < ALIKE
    for x, wanted in zip(watch_walk(tiny64, made), followed, strict=True):
        assert gap(x[0], wanted) < ALIKE
    assert cost.backwards == sum(taken) == 4 + 4 + 4
    assert cost.forwards == STEPS + sum(1 + n + 1 for n in taken)


# --- the mapping network ---------------------------------------------------------------------------------------------


def test_every_token_s_features_are_normalised_before_gain_and_bias() -> None:
    start = {n: w[None] for n, w in fresh((197, 768), (77, 768), 0).items()}
    features = torch.randn(1, 197, 768, generator=torch.Generator().manual_seed(0))
    passes = {**start, "third": torch.eye(154)[None], "third_bias": torch.zeros(1, 154)}
    h = torch.cat(modulation(passes, features), 1)
    h = torch.where(h < 0, h / 0.01, h)  # undo the activation
    assert h.mean(-1).abs().max() < 1e-5
    assert (h.var(-1, unbiased=False) - 1).abs().max() < 1e-3


def test_the_first_network_is_drawn_as_torch_draws_its_layers() -> None:
    network = fresh((197, 768), (77, 768), 0)
    assert sum(w.numel() for w in network.values()) == 197 * 154 + 2 * 154 * 154 + 3 * 154  # 78,386 a step
    for name, fan_in in (("first", 197), ("second", 154), ("third", 154), ("third_bias", 154)):
        drawn = network[name] * math.sqrt(fan_in)
        assert drawn.abs().max() <= 1
        assert drawn.std() == pytest.approx(3**-0.5, rel=0.1)
    assert torch.equal(network["third"], fresh((197, 768), (77, 768), 0)["third"])
    assert not torch.equal(network["third"], fresh((197, 768), (77, 768), 1)["third"])
    assert fresh((197, 768), (77, 1024), 0)["width"].shape == (1024, 768)


def test_the_budget() -> None:
    budget = [StyleDiffusion().budget(s) for s in range(50)]
    assert budget[:10] == [100, 91, 82, 75, 68, 61, 55, 50, 45, 41]
    assert sum(budget) == 1071
    assert sum(budget[:30]) == 1015


def test_it_costs_what_is_needed(tiny, clean) -> None:
    """Section 7.3: N to invert, N null predictions, a row per optimisation step, N after it; the edit is P2P's own."""
    method = StandIn(inner=2, inner_decay=0.5, early_stop=0.0, early_stop_slope=0.0)
    made, cost = spent(source_of(tiny, clean[:1].float(), steps=5), method)
    assert [method.budget(s) for s in range(5)] == [2, 2, 1, 1, 1]
    assert (cost.forwards, cost.backwards) == (5 + 5 + 7 + 5, 7)
    before = tiny.tally.copy()
    watch_walk(tiny, made, [TARGET], [P2P()])
    assert tiny.tally.since(before).forwards == 4 * 5


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_it_stops_early_after_at_least_one_step(source) -> None:
    _, cost = spent(source, StandIn(inner=4, early_stop=1e9))
    assert cost.backwards == STEPS
    _, cost = spent(source, StandIn(inner=4, early_stop=0.0, early_stop_slope=1e9))  # step 0 alone takes all its steps
    assert cost.backwards == 4 + (STEPS - 1)


def test_a_step_starts_from_the_last_one_s_network(source) -> None:
    """With a rate that is zero from step 1 on, all steps say what step 0 learned."""
    made = StandIn(inner=2, rate_decay=1.0).invert(replace(source, steps=2))
    assert torch.equal(made.kept["scale"][1], made.kept["scale"][0])
    free = StandIn(inner=2).invert(replace(source, steps=2))
    assert torch.equal(free.kept["scale"][0], made.kept["scale"][0])
    assert not torch.equal(free.kept["scale"][1], free.kept["scale"][0])


def test_more_steps_bring_the_source_nearer_to_the_path(tiny64, source) -> None:
    errors = []
    for inner in (1, 4, 16):
        made = StandIn(inner=inner, attention=0.0).invert(replace(source, steps=2))
        walked = watch_walk(tiny64, made)
        errors.append(sum((x[0] - made.path[1 - s]).square().mean().item() for s, x in enumerate(walked)))
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize(("guidance", "backwards", "forwards"), [(1.0, 4, 2 + 2 * 3), (0.0, 0, 2 + 2)])
def test_rows_that_a_scale_makes_superfluous(tiny64, clean, guidance: float, backwards: int, forwards: int) -> None:
    """At 1 the null side is not heard and not evaluated; at 0 there is nothing to learn."""
    source = source_of(tiny64, clean[:1], steps=2, guidance=guidance)
    made, cost = spent(source, StandIn(inner=2, early_stop=0.0, early_stop_slope=0.0))
    assert (cost.backwards, cost.forwards) == (backwards, forwards)
    assert bool(watch_walk(tiny64, made, guidance=guidance)[-1].isfinite().all())


def test_one_sampling_step(tiny64, clean) -> None:
    """The only map there is to compare with is that of the cleanest latent."""
    made, cost = spent(source_of(tiny64, clean[:1], steps=1), StandIn(inner=2))
    other = StandIn(inner=2, attention=0.0).invert(source_of(tiny64, clean[:1], steps=1))
    assert cost.backwards == 2
    assert gap(made.kept["scale"], other.kept["scale"]) > ALIKE


def test_nothing_but_the_networks_gets_a_gradient(tiny64, source) -> None:
    StandIn(inner=1).invert(source)
    for network in (tiny64.unet, tiny64.vae, tiny64.text_encoder):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(type(p).__name__ == "AttnProcessor2_0" for p in tiny64.unet.attn_processors.values())


def test_cases_of_a_batch_learn_each_on_their_own(tiny64, clean) -> None:
    alone = [
        spent(source_of(tiny64, clean[i : i + 1], (prompt,), 2), StandIn(inner=2))
        for i, prompt in enumerate((SOURCE, TARGET))
    ]
    both, cost = spent(source_of(tiny64, clean, (SOURCE, TARGET), 2), StandIn(inner=2))
    for i, (one, _) in enumerate(alone):
        for name in ("scale", "shift"):
            assert gap(both.kept[name][:, i], one.kept[name][:, 0]) < ALIKE
        assert gap(watch_walk(tiny64, both.case(i))[-1], watch_walk(tiny64, one)[-1]) < ALIKE
    assert cost.forwards == sum(c.forwards for _, c in alone)
    assert cost.backwards == sum(c.backwards for _, c in alone)


# --- the edit --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(source) -> Trajectory:
    return StandIn(inner=3).invert(source)


def test_the_attention_loss_matters(source, learned) -> None:
    without = StandIn(inner=3, attention=0.0).invert(source)
    assert gap(without.kept["scale"], learned.kept["scale"]) > 10 * ALIKE


def with_kept(trajectory: Trajectory, method: StyleDiffusion, **kept: Tensor) -> Trajectory:
    return replace(trajectory, method=method, kept={**trajectory.kept, **kept})


def test_the_identity_modulation_is_plain_p2p(tiny64, source, learned) -> None:
    ones = torch.ones_like(learned.kept["scale"])
    nothing = with_kept(learned, StandIn(), scale=ones, shift=torch.zeros_like(ones))
    ddim = watch_walk(tiny64, DDIM().invert(source), [TARGET], [P2P()])
    for a, b in zip(watch_walk(tiny64, nothing, [TARGET], [P2P()]), ddim, strict=True):
        assert gap(a, b) < 1e-9


@pytest.mark.parametrize(("tau_v", "modulated"), [(0.0, 0), (0.5, 2), (2 / 3, 2), (0.7, 3), (1.0, 3)])
def test_targets_are_modulated_in_their_window_and_the_source_always(
    tiny64, learned, tau_v: float, modulated: int
) -> None:
    """s < N tau_v, strictly; each branch modulates its own text; keys are the words."""
    plain = learned.conditioning(tiny64, ((TARGET,),))
    conditioning = StandIn(tau_v=tau_v).conditioning(learned, plain)
    keys, (scale, shift) = plain.text.tokens, (learned.kept[n].to(plain.text.tokens) for n in ("scale", "shift"))
    assert len(conditioning.at_step) == STEPS
    for s, said in enumerate(conditioning.at_step):
        assert said.values is not None
        assert torch.equal(said.tokens, keys)
        assert torch.equal(said.values[0], keys[0] * scale[s] + shift[s])
        assert torch.equal(said.values[1], keys[1] * scale[s] + shift[s] if s < modulated else keys[1])


def test_the_target_s_window_does_not_touch_the_source(tiny64, learned) -> None:
    never, always = (
        watch_walk(tiny64, with_kept(learned, StandIn(tau_v=tau_v)), [TARGET], [P2P()])[-1] for tau_v in (0.0, 1.0)
    )
    assert gap(never[0], always[0]) < 1e-9
    assert gap(never[0], watch_walk(tiny64, learned)[-1][0]) < 1e-9
    assert gap(never[1], always[1]) > 1e-3


# --- from pictures, with a tower -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tower(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"), tokenizer=False)


def test_a_saved_file_gives_the_same_edit_without_the_tower(tiny, picture, tmp_path, tower: Path) -> None:
    moved = build_tower(tmp_path / "tower")
    made = reinvert.invert(
        tiny, picture, SOURCE, inversion="style_diffusion", steps=2, inner=2, encoder=str(moved), tau_v=1.0
    )
    assert made.kept["scale"].shape == (2, 1, TOKENS, WIDTH)
    made.save(tmp_path / "a.trajectory.safetensors")
    moved.rename(tmp_path / "elsewhere")
    loaded = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    a, b = (reinvert.edit(tiny, t, target=TARGET).latents for t in (made, loaded))
    assert torch.equal(a, b)
    with pytest.raises(ReinvertError, match=r"fitted to guidance 7\.5"):
        reinvert.edit(tiny, loaded, target=TARGET, guidance=3.0)
    with pytest.raises(ReinvertError, match="cannot be begun later"):
        loaded.later(1, tiny)


def test_the_tower_sees_the_picture_itself_or_else_the_decoded_latents(tiny, clean, tower: Path) -> None:
    method, x0 = StyleDiffusion(encoder=str(tower)), clean[:1].float()
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = load_tower(tower)
    given = method.features(source_of(tiny, x0, pictures=pictures))
    decoded = method.features(source_of(tiny, x0))
    assert torch.equal(given, seen.tokens(pictures))
    assert torch.equal(decoded, seen.tokens(tiny.decode(x0).clamp(-1, 1)))
    assert not torch.allclose(given, decoded)


def test_the_verb_hands_the_picture_on(tiny, picture, tower: Path, monkeypatch) -> None:
    asked: list[Source] = []
    features = StyleDiffusion.features
    monkeypatch.setattr(StyleDiffusion, "features", lambda self, s: (asked.append(s), features(self, s))[1])
    reinvert.invert(tiny, picture, SOURCE, inversion="style_diffusion", steps=1, inner=1, encoder=str(tower))
    assert len(asked) == 1  # encoded once
    assert asked[0].pictures is not None
    assert torch.equal(asked[0].pictures, reinvert.image.to_tensor([picture]))


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (24, 50)])
def test_tokens_are_clip_s_after_its_last_norm(clip: Path, size: tuple[int, int]) -> None:
    """Of a whole CLIP, whose text half is left alone."""
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network, theirs = load_tower(clip), CLIPModel.from_pretrained(clip).vision_model.eval()
    tokens, seen = network.tokens(pictures), network.seen(pictures)
    side = theirs.config.image_size
    assert seen.shape == (2, 3, side, side)
    with torch.no_grad():
        wanted = theirs.post_layernorm(theirs(pixel_values=seen).last_hidden_state)
        pooled = theirs(pixel_values=seen).pooler_output
    assert tokens.shape == wanted.shape
    assert gap(tokens, wanted) < 1e-6
    assert gap(tokens[:, 0], pooled) < 1e-6  # the class token after the norm is what CLIP pools
    assert not tokens.requires_grad


def test_what_the_tower_is_shown(tower: Path) -> None:
    """The centre square of a wide picture, its shorter side resized, in CLIP's colours."""
    network = load_tower(tower)
    side = int(network.model.config.image_size)
    wide = torch.zeros(1, 3, side, 3 * side)
    wide[..., side : 2 * side] = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(c).view(-1, 1, 1) for c in (network.mean, network.std))
    assert gap(network.seen(wide), (wide[..., side : 2 * side] / 2 + 0.5 - mean) / std) < 1e-5
    flat = network.seen(torch.full((1, 3, 2 * side + 3, 5 * side), 0.5))
    assert gap(flat, ((torch.full_like(flat, 0.75)) - mean) / std) < 1e-5


# --- what is refused -------------------------------------------------------------------------------------------------


def test_bad_towers_are_refused_before_anything_is_computed(tiny, clean, tmp_path, tower: Path) -> None:
    def refused(encoder: Path, match: str) -> None:
        before = tiny.tally.copy()
        with pytest.raises(ReinvertError, match=match):
            StyleDiffusion(encoder=str(encoder)).invert(source_of(tiny, clean[:1].float()))
        assert tiny.tally.since(before).forwards == 0

    refused(tmp_path / "nowhere", "there is no")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a CLIP in transformers format")
    pickled = build_tower(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, "is a pickle, which reinvert never loads")
    partial = build_tower(tmp_path / "partial")
    kept = {n: t for n, t in load_file(partial / "model.safetensors").items() if "post_layernorm" not in n}
    save_file(kept, partial / "model.safetensors", {"format": "pt"})
    refused(partial, "lacks weights of a CLIP: .*post_layernorm.* is missing")


def test_the_usual_tower(monkeypatch, tmp_path) -> None:
    assert usual_tower("any/other") == "openai/clip-vit-base-patch16"
    monkeypatch.setitem(BUNDLED, "picturebook", tmp_path)
    with pytest.raises(ReinvertError, match="the picture encoder of picturebook is not in this installation"):
        usual_tower("picturebook")
    (tmp_path / "config.json").touch()
    assert usual_tower("picturebook") == str(tmp_path)


def test_a_model_without_such_attention_is_refused_at_the_first_step(tiny64, source) -> None:
    before = tiny64.tally.copy()
    with pytest.raises(ReinvertError, match="choose another `grid`"):
        StandIn(grid=3).invert(source)  # a quarter of the latents is 4x4, where the tiny model has none
    assert tiny64.tally.since(before).forwards == 1


@pytest.mark.parametrize(("wrong", "match"), [({"inner": 0}, "at least 1"), ({"tau_v": 1.5}, "between 0 and 1")])
def test_bad_settings(wrong: dict, match: str) -> None:
    with pytest.raises(ReinvertError, match=match):
        StyleDiffusion(**wrong)
