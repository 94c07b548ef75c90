"""What a walk does once instead of at every step, and what the VAE is not asked for."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import SOURCE, TARGET, gap, make_picture

import reinvert
from reinvert.backbones import memory, placement
from reinvert.backbones.attention import RuledAttention
from reinvert.backbones.families import families
from reinvert.backbones.time_embeddings import TimeEmbeddings
from reinvert.editors.p2p import P2P, _P2PHooks
from reinvert.hooks import Hooks
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
from reinvert.inversions.null_text import NullText
from reinvert.verbs import prepared_edit

RUN = {"source": SOURCE, "target": TARGET, "steps": 4}


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """The rows of every call of a module meanwhile."""
    rows: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        yield rows
    finally:
        handle.remove()


def inverted(model, steps: int) -> reinvert.Trajectory:
    x0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Direct().invert(Source(model, x0, (SOURCE,), steps))


# --- processors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_3", "flux"])
def test_processors_are_set_once_a_walk(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families()[family].tiny()
    path, calls = inverted(model, 5), Counter[str]()
    layer = model.network.get_submodule(model.layers()[0].name)
    own = type(layer).set_processor

    def noted(self, processor) -> None:
        calls[type(processor).__name__] += self is layer
        own(self, processor)

    monkeypatch.setattr(type(layer), "set_processor", noted)
    before = layer.processor
    assert len(list(path.walk(model, [(TARGET,)]))) == 5
    assert sorted(calls.values()) == [1, 1]  # ours, and the network's own again
    assert layer.processor is before


def test_walks_that_overlap_share_the_network(tiny64) -> None:
    """Whoever ends first leaves the rules to the other; alone, each gives the same."""
    path = inverted(tiny64, 3)
    alone = [state.x for _, state in path.walk(tiny64, [(TARGET,)], guidance=3.0)]
    before = dict(tiny64.unet.attn_processors)
    first, second = (path.walk(tiny64, [(TARGET,)], guidance=3.0) for _ in range(2))
    steps = [next(first)[1].x, next(second)[1].x, next(first)[1].x, next(first)[1].x]
    assert list(first) == []  # it has ended
    assert dict(tiny64.unet.attn_processors) != before
    steps += [next(second)[1].x]
    second.close()
    assert dict(tiny64.unet.attn_processors) == before
    for x, i in zip(steps, (0, 0, 1, 2, 1), strict=True):
        assert torch.equal(x, alone[i])


def test_features_of_overlapping_walks_reach_their_own_rules_only(tiny64) -> None:
    class Zero(Hooks):
        def features(self):
            return ("mid_block.resnets.0",)

        def feature(self, h, name, side, branches, moment):
            return torch.zeros_like(h)

    path = inverted(tiny64, 2)
    plain, zeroed = (
        [state.x for _, state in path.walk(tiny64, [(TARGET,)], hooks, 3.0)] for hooks in (Hooks(), Zero())
    )
    walks = [path.walk(tiny64, [(TARGET,)], hooks, 3.0) for hooks in (Zero(), Hooks(), Zero())]
    for i in range(2):
        steps = [next(walked)[1].x for walked in walks]
        assert torch.equal(steps[1], plain[i])
        assert torch.equal(steps[0], zeroed[i])
        assert torch.equal(steps[2], zeroed[i])
    assert gap(plain[-1][1], zeroed[-1][1]) > 1e-4
    for walked in walks:
        walked.close()
    assert not any(module._forward_hooks for module in tiny64.unet.modules())


def test_an_edit_that_its_watcher_breaks_off_leaves_the_network_as_it_was(tiny) -> None:
    class Enough(Exception):
        pass

    def stop(progress) -> None:
        raise Enough

    before = dict(tiny.unet.attn_processors)
    with pytest.raises(Enough) as caught:
        reinvert.edit(tiny, make_picture(0), **RUN, watch=stop)
    assert dict(tiny.unet.attn_processors) == before
    assert caught.value is not None  # whose frames are still there


# --- time -----------------------------------------------------------------------------------------------------------


def test_what_a_network_makes_of_the_times_is_made_once_a_walk(tiny64) -> None:
    path, unet = inverted(tiny64, 6), tiny64.unet
    block = unet.down_blocks[0].resnets[0].time_emb_proj
    made: list[torch.Size] = []
    own = type(block).forward

    def noted(given: torch.Tensor) -> torch.Tensor:
        made.append(given.shape)
        return own(block, given)

    block.forward = noted  # its instance's own: a stand-in asks the module itself
    try:
        walked = [state.x for _, state in path.walk(tiny64, [(TARGET,)], guidance=3.0)]
    finally:
        del block.forward
    # 6 steps ask at 6 times; the end of the grid would be told 0
    assert [shape[0] for shape in made] == [7]
    assert unet.down_blocks[0].resnets[0].time_emb_proj is block
    embeddings, tiny64._rules.embeddings = tiny64._rules.embeddings, None
    try:
        plain = [state.x for _, state in path.walk(tiny64, [(TARGET,)], guidance=3.0)]
    finally:
        tiny64._rules.embeddings = embeddings
    assert gap(walked[-1], plain[-1]) < 1e-9


def test_a_time_that_nobody_announced_is_made_when_it_is_told(tiny64) -> None:
    x = torch.randn(1, 1, *tiny64.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    said = tiny64.encode_text([SOURCE])[None]
    plain = [tiny64.answer(x, said, time, None) for time in (21, 521)]
    with tiny64.attending((), (21,)):
        told = [tiny64.answer(x, said, time, None) for time in (21, 521)]
    assert all(gap(a, b) < 1e-12 for a, b in zip(told, plain, strict=True))
    assert gap(*plain) > 1e-4


def test_the_network_keeps_the_names_of_its_weights_while_it_is_walked(tiny64) -> None:
    names, print_ = [name for name, _ in tiny64.unet.named_parameters()], tiny64.fingerprint()
    with tiny64.attending():
        assert [name for name, _ in tiny64.unet.named_parameters()] == names
        assert tiny64.fingerprint() == print_
        assert sum("StandIn" in type(m).__name__ for m in tiny64.unet.modules()) > 2


def test_a_network_whose_embedding_is_not_of_the_time_alone_keeps_its_own() -> None:
    assert TimeEmbeddings.of(families()["stable_diffusion_xl"].tiny().unet) is None


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_words_keys_and_values_are_mixed_once_as_long_as_they_are_the_same(
    tiny64, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inverted(tiny64, 10)
    path, hooks = prepared_edit(tiny64, path, (P2P(cross=0.8, self_attention=0.0),), ((TARGET,),))
    made, own = Counter[str](), _P2PHooks._keys_and_values

    def noted(self, k, v, site):
        made[site.layer.name] += 1
        return own(self, k, v, site)

    monkeypatch.setattr(_P2PHooks, "_keys_and_values", noted)
    assert len(list(path.walk(tiny64, [(TARGET,)], hooks, 3.0))) == 10
    assert made
    assert set(made.values()) == {1}


def test_of_words_that_change_only_those_that_do_are_projected_again(tiny64) -> None:
    x0 = torch.randn(2, *tiny64.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = NullText(inner=2).invert(Source(tiny64, x0, (SOURCE, TARGET), 4, guidance=3.0))
    layer = next(layer for layer in tiny64.layers() if layer.name.endswith("attn2"))
    with counted(tiny64.unet.get_submodule(layer.name).to_k) as rows:
        walked = [state.x for _, state in path.walk(tiny64, [(TARGET, SOURCE)], guidance=3.0)]
    # of [null, null, text, text] of two cases each: all at first, then the learned null side's
    assert rows == [8, 4, 4, 4]
    attention, RuledAttention._words = (
        RuledAttention._words,
        (lambda self, attn, keys, values, call: self._keys_and_values(attn, keys, values, cross=True)),
    )
    try:
        plain = [state.x for _, state in path.walk(tiny64, [(TARGET, SOURCE)], guidance=3.0)]
    finally:
        RuledAttention._words = attention
    assert gap(walked[-1], plain[-1]) < 1e-9


# --- the VAE --------------------------------------------------------------------------------------------------------

PICTURES = [make_picture(0), make_picture(1)]
ASKED: dict[str, tuple[Callable[..., object], int, int]] = {
    "an inversion": (lambda m: reinvert.invert(m, PICTURES[0], SOURCE, steps=2), 1, 0),
    "an edit": (lambda m: reinvert.edit(m, PICTURES[0], **RUN), 1, 2),
    "an edit of a trajectory": (
        lambda m: reinvert.edit(m, reinvert.invert(m, PICTURES[0], SOURCE, steps=2), target=TARGET),
        1,
        2,
    ),
    "a reconstruction": (lambda m: reinvert.reconstruct(m, PICTURES[0], SOURCE, steps=2), 1, 1),
    "many targets": (lambda m: reinvert.edit(m, PICTURES[0], **(RUN | {"target": [TARGET] * 4})), 1, 5),
    "two pictures": (lambda m: reinvert.edit(m, PICTURES, source=[SOURCE] * 2, target=[TARGET] * 2, steps=2), 2, 4),
}


@pytest.mark.parametrize("what", ASKED)
def test_the_vae_sees_what_is_asked_for_and_no_more(tiny, what: str) -> None:
    work, encoded, decoded = ASKED[what]
    with counted(tiny.vae.encoder) as into, counted(tiny.vae.decoder) as out:
        work(tiny)
    assert (sum(into), sum(out)) == (encoded, decoded)


def test_pictures_go_through_the_vae_in_batches_that_fit(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(5, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = tiny.decode(latents), tiny.encode(pictures)
    one = memory.vae_bytes(tiny.vae, 32, 32)
    monkeypatch.setattr(memory, "all_memory", lambda: 2 * 2 * one)
    with counted(tiny.vae.encoder) as into, counted(tiny.vae.decoder) as out:
        parts = tiny.decode(latents), tiny.encode(pictures)
    assert into == out == [2, 2, 1]
    assert all(gap(a, b) < 1e-4 for a, b in zip(parts, together, strict=True))
    monkeypatch.setattr(memory, "all_memory", lambda: 0)
    with counted(tiny.vae.decoder) as out:
        tiny.decode(latents)
    assert out == [1] * 5


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [True, False])
def test_a_large_network_is_computed_in_bfloat16_where_the_cpu_has_units_for_it(
    tiny_folder, monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    assert reinvert.load(tiny_folder, "cpu").dtype == torch.float32  # a small one gains nothing
    monkeypatch.setattr(placement, "LARGE", 1)
    if not units:
        assert reinvert.load(tiny_folder, "cpu").dtype == torch.float32
        return
    with pytest.warns(reinvert.ReinvertWarning, match="--dtype float32"):
        model = reinvert.load(tiny_folder, "cpu")
    assert model.dtype == torch.bfloat16
    assert (model.vae.dtype, model.text_encoder.dtype) == (torch.float32, torch.float32)
    assert bool(reinvert.edit(model, make_picture(0), **RUN).latents.isfinite().all())
    assert reinvert.load(tiny_folder, "cpu", "float32").dtype == torch.float32


def test_a_copy_of_a_model_has_rules_of_its_own(tiny64) -> None:
    other = copy.deepcopy(tiny64)
    path = inverted(tiny64, 2)
    with tiny64.attending():
        assert not other._rules.open
        a = [state.x for _, state in path.walk(other, [(TARGET,)], guidance=3.0)][-1]
    assert torch.equal(a, [state.x for _, state in path.walk(tiny64, [(TARGET,)], guidance=3.0)][-1])
