"""The networks of the metrics: against transformers, against full forms written out, and what they refuse to load."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from metric_networks import (
    PATCH,
    SIDE,
    TOKENS,
    clip_folder,
    lpips_network,
    lpips_tensors,
    naive_lpips,
    naive_similarity,
    naive_timm_keys,
    noisy,
    pictures,
    square,
    timm_file,
    vit_folder,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer, ViTModel

from reinvert.errors import ReinvertError
from reinvert.metrics.clip_similarity import clip_similarity
from reinvert.metrics.lpips import lpips
from reinvert.metrics.ns_lpips import ns_lpips
from reinvert.metrics.structure_distance import structure_distance
from reinvert.networks.clip import Clip
from reinvert.networks.convolutional import Lpips
from reinvert.networks.files import read
from reinvert.networks.vit import CLIP, IMAGENET, TowerDistance, Vit, load_vit

PROMPTS = ["a cat sitting on a table", "a dog", "a cat " * 30]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    return Clip.load(clip_folder(tmp_path_factory.mktemp("clip") / "tiny-clip"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Vit:
    return load_vit(vit_folder(tmp_path_factory.mktemp("vit") / "tiny-vit"))


# --- vision transformers -----------------------------------------------------------------------------------------


def keys_of(model: torch.nn.Module, name: str, run) -> torch.Tensor:
    """What the last module whose name matches gives during `run`."""
    found = [module for n, module in model.named_modules() if re.search(name, n)]
    seen: list[torch.Tensor] = []
    with found[-1].register_forward_hook(lambda *args: seen.append(args[2])), torch.no_grad():
        run()
    return seen[0]


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 2 * SIDE + 3)])
def test_keys_are_those_of_transformers(tmp_path, size) -> None:
    """Also on another grid, where positions are resampled."""
    folder = vit_folder(tmp_path / "vit")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    theirs = ViTModel.from_pretrained(folder)
    whole = x[..., : size[1] // PATCH * PATCH]
    wanted = keys_of(theirs, r"(key|k_proj)$", lambda: theirs(whole, interpolate_pos_encoding=True))
    ours = load_vit(folder).keys(x)
    assert (ours - wanted).abs().max() < 1e-4 * wanted.abs().max()  # float32
    assert ours.shape[1] == 1 + (size[0] // PATCH) * (size[1] // PATCH)


def test_keys_of_the_vision_half_of_a_clip(tmp_path) -> None:
    folder = clip_folder(tmp_path / "clip")
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    theirs = CLIPModel.from_pretrained(folder).vision_model
    wanted = keys_of(theirs, r"k_proj$", lambda: theirs(x))
    network = load_vit(folder)
    assert (network.keys(x) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    hidden = theirs(x, output_hidden_states=True).hidden_states
    for ours, other in zip(network.layers(x), hidden, strict=True):
        assert (ours - other).abs().max() < 1e-4 * other.abs().max()
    assert (network.mean, network.std) == CLIP


def test_keys_under_timms_names(tmp_path) -> None:
    """Against full attention maps, head by head; heads are 64 wide where no configuration says otherwise."""
    path = timm_file(tmp_path / "some_vit.safetensors")
    network, x = load_vit(path), torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    wanted = naive_timm_keys(load_file(path), x[0], heads=2)
    assert (network.keys(x)[0] - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (network.name, network.shape, network.side) == ("some_vit", (2, 128, PATCH), SIDE)
    assert (network.mean, network.std) == IMAGENET


@pytest.mark.parametrize("mode", ["strict", "compat"])
def test_structure_distance_written_out(tmp_path, mode) -> None:
    path = timm_file(tmp_path / "vit.safetensors")
    a, b = pictures(1, SIDE), noisy(pictures(1, SIDE), 0.1)
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in IMAGENET)
    scale = 255 if mode == "compat" else 1
    similar = [naive_similarity(naive_timm_keys(load_file(path), (scale * x[0] - mean) / std, heads=2)) for x in (a, b)]
    wanted = float(((similar[0] - similar[1]) ** 2).mean())
    value = structure_distance(a, b, None, mode, network=load_vit(path))
    assert float(value) == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1e-6


def test_structure_distance_of_large_pictures_shrinks_them_first(vit) -> None:
    """torchvision's rules: the shorter side to the network's, the longer capped at 480 / 224 of it."""
    a, b = pictures(2, 96), noisy(pictures(2, 96), 0.2)
    for antialias in (True, False):
        small = [F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=antialias) for x in (a, b)]
        value = structure_distance(a, b, None, "strict", network=vit, antialias=antialias)
        assert torch.allclose(value, structure_distance(*small, None, "strict", network=vit), rtol=1e-4)
    plain = structure_distance(a, b, None, "strict", network=vit, antialias=False)
    assert not torch.allclose(plain, structure_distance(a, b, None, "strict", network=vit), rtol=0.01)
    seen = []
    wide = type("Seen", (), {"name": "x", "side": 224, "mean": vit.mean, "std": vit.std, "grid": vit.grid})()
    wide.keys = lambda x: (seen.append(tuple(x.shape[-2:])), torch.ones(1, 2, 3))[1]
    for size in ((300, 400), (100, 900), (512, 512)):
        x = torch.rand(1, 3, *size)
        structure_distance(x, x, None, "compat", network=wide)
    assert seen[::2] == [(224, 298), (53, 480), (224, 224)]


def test_structure_distance_over_a_region_weighs_pairs_of_patches(vit) -> None:
    a, b = pictures(1, SIDE), noisy(pictures(1, SIDE), 0.2)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 8:24, 4:16] = 1  # two rows of patches: half of the first column of patches, all of the second
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in IMAGENET)
    similar = [naive_similarity(vit.keys((x - mean) / std)[0])[1:, 1:] for x in (a, b)]
    share = torch.zeros(4, 4)
    share[1:3, 0], share[1:3, 1] = 0.5, 1.0
    pairs = torch.outer(share.flatten(), share.flatten())
    wanted = float((pairs * (similar[0] - similar[1]) ** 2).sum() / pairs.sum())
    assert float(structure_distance(a, b, mask, network=vit)) == pytest.approx(wanted, rel=1e-3)


# --- LPIPS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["squeeze", "alex", "vgg"])
def test_lpips_written_out(kind) -> None:
    state = lpips_tensors(kind)
    a, b = pictures(2, 40), noisy(pictures(2, 40), 0.1)
    wanted = [naive_lpips(kind, state, 2 * x - 1, 2 * y - 1) for x, y in zip(a, b, strict=True)]
    network = Lpips(state)
    assert network.name == network.kind == kind
    assert lpips(a, b, network=network).tolist() == pytest.approx(wanted, rel=1e-4)
    assert min(wanted) > 1e-4


def test_lpips_compat_blackens_and_strict_averages_the_region() -> None:
    network, a, b, mask = lpips_network(), pictures(2), noisy(pictures(2), 0.1), square(2)
    black = lpips(a * mask, b * mask, network=network)
    assert torch.equal(lpips(a, b, mask, "compat", network=network), black)
    wanted = torch.zeros(2)
    for distance in network.maps(2 * a - 1, 2 * b - 1):
        share = F.adaptive_avg_pool2d(mask, distance.shape[-2:])
        wanted += (distance * share).sum((1, 2, 3)) / share.sum((1, 2, 3))
    assert torch.allclose(lpips(a, b, mask, network=network), wanted, rtol=1e-5)
    assert torch.allclose(lpips(a, b, torch.ones_like(mask), network=network), lpips(a, b, network=network), rtol=1e-5)


def test_ns_lpips_as_published_squashes_and_feeds_0_to_1() -> None:
    """Through PIL, as the authors' transforms do; and LPIPS over the region in strict mode."""
    network, a, b, mask = lpips_network("alex"), pictures(1), noisy(pictures(1), 0.1), square(1)

    def squashed(x: torch.Tensor) -> torch.Tensor:
        pixels = (x * 255).round().byte().numpy()
        planes = [Image.fromarray(plane).resize((256, 256), Image.Resampling.BILINEAR) for plane in pixels]
        return torch.stack([torch.tensor(list(plane.tobytes())).view(256, 256) / 255 for plane in planes])

    kept = squashed(mask[0])
    # naive_lpips takes -1..1; the published evaluation hands it 0..1
    state = {key: value for key, value in lpips_tensors("alex").items()}
    wanted = naive_lpips("alex", state, squashed(a[0]) * kept, squashed(b[0]) * kept)
    assert float(ns_lpips(a, b, mask, "compat", network=network)) == pytest.approx(wanted, rel=1e-4)
    assert torch.equal(ns_lpips(a, b, mask, network=network), lpips(a, b, mask, network=network))


def test_lpips_weights_may_lie_in_several_files_or_one(tmp_path) -> None:
    state = lpips_tensors("squeeze")
    trunk = {key: value for key, value in state.items() if key.startswith("features")}
    learned = {key: value for key, value in state.items() if key.startswith("lin")}
    folder = tmp_path / "lpips-squeeze"
    folder.mkdir()
    save_file({**trunk, "classifier.1.weight": torch.zeros(2)}, folder / "squeezenet1_1.safetensors")
    save_file(learned, folder / "squeeze.safetensors")
    save_file(state, tmp_path / "both.safetensors")
    a, b = pictures(1), noisy(pictures(1), 0.1)
    wanted = lpips(a, b, network=Lpips(state))
    for network in (
        Lpips.load(folder),
        Lpips.load(tmp_path / "both.safetensors"),
        Lpips.load(folder / "squeezenet1_1.safetensors", folder / "squeeze.safetensors"),
    ):
        assert torch.equal(lpips(a, b, network=network), wanted)
        assert network.digest
    with pytest.raises(ReinvertError, match=r"squeeze.*lin0\.model\.1\.weight is missing.*LPIPS needs the trunk"):
        Lpips.load(folder / "squeezenet1_1.safetensors")
    with pytest.raises(ReinvertError, match="no trunk of LPIPS"):
        Lpips.load(folder / "squeeze.safetensors")


def test_the_stand_in_compares_normalised_patches_layer_by_layer(tmp_path) -> None:
    folder = clip_folder(tmp_path / "clip")
    tower = load_vit(folder, "picturebook")
    a, b = pictures(1, SIDE), noisy(pictures(1, SIDE), 0.1)
    theirs = CLIPModel.from_pretrained(folder).vision_model
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in CLIP)
    with torch.no_grad():
        hidden = [theirs((x - mean) / std, output_hidden_states=True).hidden_states[1:] for x in (a, b)]
    total = 0.0
    for ha, hb in zip(*hidden, strict=True):
        cosines = F.cosine_similarity(ha[0, 1:], hb[0, 1:], dim=-1)
        total += float((2 - 2 * cosines).mean()) / 2  # |u - v|^2 = 2 - 2 cos for unit vectors; two layers
    network = TowerDistance(tower)
    assert float(lpips(a, b, network=network)) == pytest.approx(total, rel=1e-3)
    assert network.name == "picturebook"
    big = pictures(1, 96), noisy(pictures(1, 96), 0.1)
    small = [F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True) for x in big]
    assert torch.allclose(lpips(*big, network=network), lpips(*small, network=network), rtol=1e-4)


# --- CLIP --------------------------------------------------------------------------------------------------------


class OldClip:
    """What torchmetrics expects of transformers' CLIP: the embeddings themselves."""

    def __init__(self, model: CLIPModel) -> None:
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, *args):
        return self.model.get_image_features(*args).pooler_output

    def get_text_features(self, *args):
        return self.model.get_text_features(*args).pooler_output


@pytest.mark.parametrize("side", [SIDE, 48, 20])
def test_clip_similarity_is_torchmetrics_with_transformers_processor(tmp_path, clip, side) -> None:
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal")
    folder = clip_folder(tmp_path / "clip")
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        CLIPTokenizer.from_pretrained(folder),
    )
    x, mask = pictures(3, side)[..., : side - 5], torch.ones(3, 1, side, side - 5)
    mask[..., : side // 3] = 0
    for shown, region in ((x, None), (x * mask, mask)):
        levels = (shown * 255).round().byte()
        for i, prompt in enumerate(PROMPTS[:2]):
            # one picture at a time, as the evaluator asks
            load = lambda: (OldClip(CLIPModel.from_pretrained(folder)), processor)  # noqa: E731
            with torch.no_grad():
                theirs = float(multimodal.clip_score(levels[i], prompt, model_name_or_path=load))
            pick = None if region is None else region[i : i + 1]
            ours = clip_similarity(x[i : i + 1], [prompt], pick, "compat", network=clip)
            assert float(ours) == pytest.approx(theirs, abs=1e-3)  # of 100, in float32


def test_clip_similarity_by_hand(clip) -> None:
    """100 times the cosine; below 0 it is 0; a long prompt is cut at the end of the text model."""
    x = pictures(3, SIDE)
    values = clip_similarity(x, PROMPTS, network=clip)
    image, text = clip.embed_pictures((x * 255).byte()), clip.embed_texts(PROMPTS)
    cosines = [float(u @ v / (u.norm() * v.norm())) for u, v in zip(image, text, strict=True)]
    assert values.tolist() == pytest.approx([max(0, 100 * c) for c in cosines], abs=0.2)  # byte() truncates

    class Opposite:
        name, mean = "opposite", CLIP[0]

        def embed_pictures(self, levels):
            return torch.tensor([[1.0, 0.0], [3.0, 4.0]])

        def embed_texts(self, prompts):
            return torch.tensor([[-1.0, 0.5], [3.0, 0.0]])

    assert clip_similarity(x[:2], ["a", "b"], network=Opposite()).tolist() == pytest.approx([0.0, 60.0])
    # nothing but "cat" and "a" is heard once the prompt is cut
    assert torch.allclose(text[2], clip.embed_texts(["a cat " * (TOKENS // 2 - 1)])[0], atol=1e-5)


def test_clip_similarity_of_a_region_shows_only_the_region(clip) -> None:
    x, mask = pictures(2), square(2)
    other = torch.where(mask == 1, x, pictures(2, seed=5))
    for mode in ("strict", "compat"):
        values = [clip_similarity(p, PROMPTS[:2], mask, mode, network=clip) for p in (x, other)]
        assert torch.equal(*values)
    neutral = torch.tensor(CLIP[0]).view(3, 1, 1)
    shown = torch.where(mask == 1, x, neutral)
    strict = clip_similarity(x, PROMPTS[:2], mask, network=clip)
    assert torch.equal(strict, clip_similarity(shown, PROMPTS[:2], network=clip))
    assert not torch.allclose(strict, clip_similarity(x, PROMPTS[:2], mask, "compat", network=clip))
    assert clip_similarity(x, PROMPTS[:2], 0 * mask, network=clip).isnan().all()
    with pytest.raises(ReinvertError, match="one prompt for each of the 2 pictures"):
        clip_similarity(x, PROMPTS, network=clip)


def test_a_processors_colours_are_heeded(tmp_path) -> None:
    folder = clip_folder(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}')
    for network in (Clip.load(folder), load_vit(folder)):
        assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


# --- files -------------------------------------------------------------------------------------------------------


def test_pickles_are_refused_with_the_line_that_converts_them(tmp_path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "squeezenet1_1.pth")
    with pytest.raises(ReinvertError, match="is a pickle, which reinvert never loads: convert it once with") as caught:
        read(tmp_path / "squeezenet1_1.pth")
    # the line works
    line = re.search(r'python -c "(.*)" and give', str(caught.value))
    assert line is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(line[1], {})
    assert list(read(tmp_path / "squeezenet1_1.safetensors").tensors) == ["features.0.weight"]
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ReinvertError, match=r"pytorch_model\.bin is a pickle"):
        read(folder)


def test_what_cannot_be_loaded_is_refused_in_one_sentence(tmp_path) -> None:
    for where, said in (
        (tmp_path / "missing.safetensors", "there is no .*missing"),
        ("nowhere", "there is no nowhere"),
        ("org/model", "the Hub cannot be reached|not in the local cache"),
        (tmp_path, "has no .safetensors file"),
    ):
        with pytest.raises(ReinvertError, match=said):
            read(where)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ReinvertError, match="cannot be read as safetensors"):
        read(tmp_path / "broken.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ReinvertError, match="not a vision transformer reinvert can read: pos is missing"):
        load_vit(tmp_path / "other.safetensors")
    with pytest.raises(ReinvertError, match="not a CLIP in transformers format"):
        Clip.load(vit_folder(tmp_path / "vit"))
    bare = clip_folder(tmp_path / "bare", tokenizer=False)
    with pytest.raises(ReinvertError, match="has no tokenizer"):
        Clip.load(bare)
    assert Clip.load(bare, tokenizer=clip_folder(tmp_path / "whole")).name == "bare"


def test_a_digest_is_of_the_weights(tmp_path) -> None:
    one, two = (read(timm_file(tmp_path / f"{i}.safetensors", seed=i)) for i in range(2))
    again = read(timm_file(tmp_path / "again.safetensors", seed=0))
    assert one.digest == again.digest != two.digest
