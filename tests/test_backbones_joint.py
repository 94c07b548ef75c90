"""Joint attention: what a rule is shown of picture and text, on the tiny models of SD3.5 and FLUX."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from conftest import SOURCE, TARGET, gap

from reinvert.backbones.loading import families
from reinvert.hooks import Call, Hooks, Row, sdpa
from reinvert.level import Moment
from reinvert.loop import moments
from reinvert.text import Side, Text
from reinvert.words import mixing, word_positions

ROWS = (Row(Side.TEXT, 0), Row(Side.TEXT, 1))
NAMES = ("stable_diffusion_3", "flux")


@cache
def model(name: str):
    return families()[name].tiny()


def step(name: str) -> Moment:
    return list(moments(model(name), model(name).times(4, (12, 16))))[1]


def latents(seed: int = 0) -> torch.Tensor:
    """[row, case, channel, h, w], not square."""
    return torch.randn(2, 1, 4, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def text(name: str, prompts=(SOURCE, TARGET)) -> Text:
    """[row, case = 1, ...]"""
    return model(name).encode_text(prompts).map(lambda y: y[:, None].double())


class Seen(Hooks):
    """Keeps what every layer is shown; `kinds` are looked at."""

    def __init__(self, kinds=("joint", "self")) -> None:
        self.kinds, self.sites, self.heads = kinds, [], []

    def touches(self, kind, moment) -> bool:
        return kind in self.kinds

    def attend(self, q, k, v, site, inner=sdpa):
        self.sites.append(site)
        self.heads.append((q, k, v))
        return inner(q, k, v, site)


def ask(name: str, x: torch.Tensor, said: Text, hooks: Hooks) -> torch.Tensor:
    moment = step(name)
    with model(name).attending():
        return model(name).answer(x, said, moment.ask, Call(ROWS, {}, moment, hooks))


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_met_once_in_order(name: str) -> None:
    seen = Seen()
    ask(name, latents(), text(name), seen)
    assert [site.layer for site in seen.sites] == list(model(name).layers())
    depths = [site.layer.depth for site in seen.sites]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, 1)
    places = [(site.layer.part, site.layer.index, site.kind) for site in seen.sites]
    if name == "flux":
        assert places == [(part, i, "joint") for part in ("double", "single") for i in (0, 1)]
    else:
        joint = [("double", i, "joint") for i in range(3)]
        assert places == [joint[0], ("double", 0, "self"), *joint[1:]]
    assert {site.kind for site in seen.sites} == model(name).kinds


@pytest.mark.parametrize("name", NAMES)
def test_a_site_tells_the_pictures_tokens_from_the_texts(name: str) -> None:
    """In the first layer the picture's keys know the picture alone and the text's keys the text alone."""
    said = text(name)
    other = Text(text(name, (TARGET, SOURCE)).tokens, said.pooled)
    seen, moved, reworded = Seen(), Seen(), Seen()
    ask(name, latents(), said, seen)
    ask(name, latents(1), said, moved)
    ask(name, latents(), other, reworded)
    site = seen.sites[0]
    assert (site.grid, site.latent) == ((6, 8), (12, 16))
    for part, unmoved, touched in ((site.picture, reworded, moved), (site.text, moved, reworded)):
        for mine, same, changed in zip(seen.heads[0], unmoved.heads[0], touched.heads[0], strict=True):
            assert gap(same[..., part, :], mine[..., part, :]) < 1e-12
            assert gap(changed[..., part, :], mine[..., part, :]) > 1e-3
    for site, (q, k, v) in zip(seen.sites, seen.heads, strict=True):
        tokens, words = (len(range(q.shape[-2])[part]) for part in (site.picture, site.text))
        assert tokens == 48
        assert words == (said.tokens.shape[2] if site.kind == "joint" else 0)
        assert q.shape == k.shape == v.shape
        assert q.shape[:2] == (2, 1)
        assert q.shape[-2] == tokens + words


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_changes_what_it_says_and_kinds_are_asked_for(name: str) -> None:
    """Without the text's keys and values the picture no longer hears the words where it was their only way in."""

    class Deaf(Seen):
        def attend(self, q, k, v, site, inner=sdpa):
            out = inner(q, k, v, site)
            if site.kind != "joint":
                return out
            out = out.clone()
            out[..., site.picture, :] = inner(
                q[..., site.picture, :], k[..., site.picture, :], v[..., site.picture, :], site
            )
            return out

    said = text(name)
    other = Text(text(name, ("a cat", "a dog")).tokens, said.pooled)
    plain = ask(name, latents(), said, Seen())
    assert gap(ask(name, latents(), other, Seen()), plain) > 1e-3
    deaf = ask(name, latents(), said, Deaf())
    assert gap(deaf, plain) > 1e-3
    assert gap(ask(name, latents(), other, Deaf()), deaf) < 1e-10
    untouched = Deaf(kinds=())
    assert gap(ask(name, latents(), said, untouched), plain) < 1e-12
    assert not untouched.sites


def test_flux_is_told_its_guidance_row_by_row() -> None:
    flux = model("flux")
    x, said = latents(), text("flux", (SOURCE, SOURCE))
    x = x[:1].expand(2, -1, -1, -1, -1)
    one, two = flux.answer(x, said, 500.0, None, guidance=(1.5, 5.5))
    assert gap(one, two) > 1e-3
    assert gap(flux.answer(x[:1], said[:1], 500.0, None, guidance=(5.5,))[0], two) < 1e-10
    assert gap(flux.answer(x[:1], said[:1], 500.0, None)[0], flux.answer(x[:1], said[:1], 500.0, None, (1.0,))[0]) == 0


def test_words_have_places_in_every_encoding() -> None:
    """CLIP's and T5's one behind the other in SD3, T5's alone in FLUX; each tokenizer's own pieces."""
    both, alone = model("stable_diffusion_3").words, model("flux").words
    assert (both.length, alone.length) == (36, 20)
    for words in (both, alone):
        assert words.length == text("flux" if words is alone else "stable_diffusion_3").tokens.shape[2]
    clip = model("stable_diffusion_3").tokenizer
    places = word_positions(both, SOURCE, "table")
    pieces = len(clip.encode("table", add_special_tokens=False))
    assert places[:pieces] == word_positions(clip, SOURCE, "table")
    assert [place - 16 for place in places[pieces:]] == list(word_positions(alone, SOURCE, "table"))
    assert word_positions(alone, SOURCE, "cat") == (1,)
    mixed = mixing(both, SOURCE, TARGET, "replace").source
    assert float(mixed[:16, 16:].abs().sum() + mixed[16:, :16].abs().sum()) == 0
    assert mixed[17, 17] == 1


def test_without_t5_its_places_hold_no_words() -> None:
    whole = model("stable_diffusion_3")
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    words = type(whole)(**{part: getattr(whole, part) for part in parts}, scheduler={"shift": 3.0}).words
    assert words.length == 16 + 256
    assert max(word_positions(words, SOURCE, "table")) < 16


@pytest.mark.parametrize("name", NAMES)
def test_pooled_text_and_gradients_reach_the_answer(name: str) -> None:
    said = text(name)
    swapped = Text(said.tokens, said.pooled.flip(0))
    assert (
        gap(model(name).answer(latents(), swapped, 500.0, None), model(name).answer(latents(), said, 500.0, None))
        > 1e-3
    )
    leaf = said.tokens.clone().requires_grad_()
    model(name).answer(latents(), Text(leaf, said.pooled), 500.0, None).square().sum().backward()
    assert float(leaf.grad.abs().sum(-1).min()) > 0  # of every token, padding too: nothing is masked
