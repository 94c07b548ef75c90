"""The scores of edits: columns, what is missing and why, the two modes, JPEG, true edits, batches."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_networks import clip_folder, lpips_network, lpips_tensors, noisy, pictures, square, timm_file, vit_folder
from PIL import Image
from safetensors.torch import save_file

from reinvert.bench.score import columns as scoring
from reinvert.bench.score.columns import (
    COLUMNS,
    OF_THE_PAPER,
    PAPER,
    Comparison,
    Networks,
    column,
    jpeg,
    score,
    score_all,
)
from reinvert.errors import ReinvertError
from reinvert.metrics.clip_similarity import clip_similarity
from reinvert.metrics.lpips import lpips
from reinvert.metrics.mse import mse
from reinvert.metrics.ns_lpips import ns_lpips
from reinvert.metrics.psnr import psnr
from reinvert.metrics.ssim import ssim
from reinvert.metrics.structure_distance import structure_distance
from reinvert.networks.clip import Clip
from reinvert.networks.vit import load_vit

MODES = ("strict", "compat")
UNEDIT = [name for name, c in COLUMNS.items() if c.part == "unedit" and c.beside == "source" and c.metric != "ns_lpips"]
SIDE = 48


def image(x: torch.Tensor) -> Image.Image:
    return Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())


def grey(mask: torch.Tensor) -> Image.Image:
    return Image.fromarray((mask[0] * 255).byte().numpy())


SOURCES, MASKS = pictures(3), square(3)
EDITS, TRUTHS = noisy(SOURCES, 0.1), torch.where(MASKS == 1, pictures(3, seed=4), SOURCES)
PROMPTS = ["a cat sitting on a table", "a dog", "a cat"]
ITEMS = [
    Comparison(image(s), image(e), grey(m), p, f"a [{p[2:]}]", image(t))
    for s, e, m, p, t in zip(SOURCES, EDITS, MASKS, PROMPTS, TRUTHS, strict=True)
]
MASK = grey(MASKS[0])


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Networks:
    """All of them, tiny; squeeze and alex, so that a column carries a name."""
    folder = tmp_path_factory.mktemp("networks")
    return Networks(
        (lpips_network("squeeze"), lpips_network("alex")),
        load_vit(vit_folder(folder / "vit"), "dino-vitb8"),
        Clip.load(clip_folder(folder / "clip"), "tiny"),
    )


def framed(mask: torch.Tensor) -> torch.Tensor:
    mask = mask.clone()
    mask[..., 0, :] = mask[..., -1, :] = mask[..., 0] = mask[..., -1] = 1
    return mask


def beyond(first: torch.Tensor, edit: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return torch.where(part == 1, edit, first)


@pytest.mark.parametrize("mode", MODES)
def test_every_column_is_its_metric_on_its_part(networks, mode) -> None:
    edited = framed(MASKS) if mode == "compat" else MASKS
    parts = {"": None, "_unedit_part": 1 - edited, "_edit_part": edited}
    wanted: dict[str, torch.Tensor] = {}
    squeeze, alex = networks.lpips

    def pair(first: torch.Tensor, part: torch.Tensor | None) -> tuple:
        second = EDITS if part is None or mode == "compat" else beyond(first, EDITS, part)
        return first, second, part, mode

    for suffix, part in parts.items():
        given = pair(SOURCES, part)
        wanted |= {f"{f.__name__}{suffix}": f(*given) for f in (psnr, mse, ssim)}
        wanted[f"structure_distance{suffix}"] = structure_distance(*given, network=networks.structure)
        wanted[f"lpips{suffix}"] = lpips(*given, network=squeeze)
        wanted[f"lpips{suffix}[alex]"] = lpips(*given, network=alex)
        given = pair(TRUTHS, part)
        where = {"": "", "_unedit_part": "_outside", "_edit_part": "_inside"}[suffix]
        wanted |= {f"{f.__name__}_true_edit{where}": f(*given) for f in (psnr, ssim)}
        wanted[f"lpips_true_edit{where}"] = lpips(*given, network=squeeze)
        wanted[f"lpips_true_edit{where}[alex]"] = lpips(*given, network=alex)
    wanted["ns_lpips"] = ns_lpips(*pair(SOURCES, parts["_unedit_part"]), network=alex)
    targets = [f"a {p[2:]}" for p in PROMPTS]  # without the brackets
    clip = {"network": networks.clip}
    wanted["clip_similarity_source_image[tiny]"] = clip_similarity(SOURCES, PROMPTS, None, mode, **clip)
    wanted["clip_similarity_target_image[tiny]"] = clip_similarity(EDITS, targets, None, mode, **clip)
    in_part = clip_similarity(beyond(SOURCES, EDITS, edited), targets, edited, mode, **clip)
    wanted["clip_similarity_target_image_edit_part[tiny]"] = in_part

    made = score_all(ITEMS, mode, networks)
    assert set(made[0].values) == set(wanted)
    for i, scores in enumerate(made):
        assert (scores.mode, scores.reasons, scores.jpeg75) == (mode, {}, False)
        for name, values in wanted.items():
            assert scores.values[name] == pytest.approx(float(values[i]), rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("mode", MODES)
def test_changing_only_masked_pixels_leaves_the_unedited_part_as_it_was(networks, mode) -> None:
    changed = image(torch.where(MASKS[0] == 1, pictures(1, seed=8)[0], EDITS[0]))
    before, after = (
        score(ITEMS[0].source, e, MASK, "a", "b", mode, networks).values for e in (ITEMS[0].edited, changed)
    )
    outside = [n for n in before if column(n).base in (*UNEDIT,)]
    assert len(outside) == 6
    assert [after[n] for n in outside] == [before[n] for n in outside]
    assert before["psnr_edit_part"] != after["psnr_edit_part"]
    assert mode == "compat" or before["ns_lpips"] == after["ns_lpips"]


@pytest.mark.parametrize("mode", MODES)
def test_an_unedited_picture_is_perfect(networks, mode) -> None:
    values = score(ITEMS[0].source, ITEMS[0].source, MASK, "a", "a", mode, networks).values
    for name, value in values.items():
        best = {"psnr": math.inf, "ssim": pytest.approx(1, abs=1e-6), "clip_similarity": value}
        assert value == best.get(column(name).metric, 0), name
    assert values["clip_similarity_source_image[tiny]"] == values["clip_similarity_target_image[tiny]"]


def test_the_border_counts_as_edited_in_compat_only() -> None:
    framed_edit = SOURCES[0].clone()
    framed_edit[:, 0] = 1 - framed_edit[:, 0]
    strict, compat = (
        score(ITEMS[0].source, image(framed_edit), MASK, None, None, mode, Networks()).values for mode in MODES
    )
    assert compat["mse_unedit_part"] == 0
    assert strict["mse_unedit_part"] > 0


def test_a_mask_of_everything_leaves_no_unedited_part(networks) -> None:
    """The published evaluator writes "nan"; so it does nothing for the edited part, which always has its border."""
    full, none = MASK.point(lambda level: 255), MASK.point(lambda level: 0)
    for mode in MODES:
        made = score(ITEMS[0].source, ITEMS[0].edited, full, "a", "b", mode, networks)
        for name in made.values:
            empty = column(name).part == "unedit"
            assert (made.values[name] is None) == empty
            said = "the mask covers the whole picture: there is no unedited part"
            assert made.reasons.get(name) == (said if empty else None)
    strict, compat = (score(ITEMS[0].source, ITEMS[0].edited, none, "a", "b", m, networks) for m in MODES)
    assert strict.values["psnr_edit_part"] is None
    assert strict.reasons["psnr_edit_part"] == "the mask is empty: there is no edited part"
    assert strict.values["clip_similarity_target_image_edit_part[tiny]"] is None
    assert compat.reasons == {}


def test_what_is_missing_leaves_its_columns_empty_with_a_reason(networks) -> None:
    made = score(ITEMS[0].source, ITEMS[0].edited, MASK, "a", "b", "strict", Networks())
    assert made.values["psnr_unedit_part"] == pytest.approx(20, abs=3)
    for name in ("lpips_unedit_part", "structure_distance", "clip_similarity_target_image", "ns_lpips"):
        assert made.values[name] is None
        assert "is loaded" in made.reasons[name]
    made = score(ITEMS[0].source, ITEMS[0].edited, None, None, "b", "strict", networks)
    assert made.values["psnr"] is not None
    assert made.reasons["psnr_unedit_part"] == made.reasons["ns_lpips"] == "this case has no mask"
    assert made.reasons["clip_similarity_source_image[tiny]"] == "this case has no source prompt"
    assert made.values["clip_similarity_target_image[tiny]"] is not None
    assert not [name for name in made.values if "true_edit" in name]


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_its_cases_one_by_one(networks, mode) -> None:
    """Of different sizes, with different things missing, in any order."""
    networks = replace(networks, lpips=networks.lpips[:1])
    small = Comparison(ITEMS[0].source.resize((40, 36)), ITEMS[0].edited.resize((40, 36)), None, "a cat", None)
    items = [ITEMS[0], small, ITEMS[1], ITEMS[2]]
    some = [*PAPER, "structure_distance_edit_part", "ns_lpips", "ssim_true_edit_inside"]
    alone = [score_all([item], mode, networks, columns=some)[0] for item in items]
    for batch in (2, 16):
        made = score_all(items, mode, networks, columns=some, batch=batch)
        for one, other in zip(alone, made, strict=True):
            assert one.reasons == other.reasons
            assert list(one.values) == list(other.values)
            assert other.values == {  # the networks' sums in another order
                name: None if value is None else pytest.approx(value, rel=1e-4) for name, value in one.values.items()
            }
    assert score_all([], mode, networks) == []


def test_jpeg_75_is_how_the_published_programs_save_the_edit() -> None:
    """They save a row of four tiles with PIL's defaults and cut the last one out. Blocks of 16 pixels do not mix, but
    the decoder smooths colours over their border: the first column, which compat counts as edited, is another."""
    tiles = [image(x) for x in (*pictures(3, seed=3), EDITS[0])]
    row = Image.new("RGB", (4 * SIDE, SIDE))
    for i, tile in enumerate(tiles):
        row.paste(tile, (i * SIDE, 0))
    stored = io.BytesIO()
    row.save(stored, "JPEG")
    cut = Image.open(stored).crop((3 * SIDE, 0, 4 * SIDE, SIDE))
    assert np.array_equal(np.asarray(jpeg(tiles[3]))[:, 1:], np.asarray(cut)[:, 1:])
    made = score(ITEMS[0].source, ITEMS[0].edited, MASK, None, None, "compat", Networks(), jpeg75=True)
    wanted, plain = (score(ITEMS[0].source, e, MASK, None, None, "compat", Networks()).values for e in (cut, tiles[3]))
    assert made.jpeg75
    for name in ("psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part"):
        assert made.values[name] == wanted[name] != plain[name]


def test_versions_of_the_published_libraries(networks) -> None:
    now, then = (
        score_all(ITEMS[:1], "compat", networks, columns=PAPER, **more)[0].values
        for more in ({}, {"libraries": OF_THE_PAPER})
    )
    differ = {name for name in now if now[name] != then[name]}
    assert differ == {"structure_distance", "ssim_unedit_part"}
    part = 1 - framed(MASKS[:1])
    assert then["ssim_unedit_part"] == pytest.approx(float(ssim(SOURCES[:1], EDITS[:1], part, "compat", crop=True)))
    with pytest.raises(ReinvertError, match="a matter of compat"):
        score_all(ITEMS, "strict", networks, libraries=OF_THE_PAPER)


def test_columns_and_their_titles(networks) -> None:
    made = score_all(ITEMS[:1], "strict", networks, columns=["psnr", "lpips_unedit_part[alex]"])[0].values
    assert list(made) == ["psnr", "lpips_unedit_part[alex]"]
    assert len(PAPER) == 8
    assert set(PAPER) < set(COLUMNS)
    titles = {name: column(name).title for name in (*PAPER, "ns_lpips", "psnr_true_edit_inside", "lpips[alex]")}
    assert titles["psnr_unedit_part"] == "PSNR, unedited part"
    assert titles["clip_similarity_source_image"] == "CLIP similarity of the source"
    assert titles["psnr_true_edit_inside"] == "PSNR to the true edit, edited part"
    assert titles["lpips[alex]"] == "LPIPS [alex]"
    assert titles["ns_lpips"] == "NS-LPIPS"
    assert column("mse_unedit_part").about.scale == 1e4
    with pytest.raises(ReinvertError, match="there is no column 'psnr_part'"):
        column("psnr_part")


def test_sizes_must_agree() -> None:
    small = ITEMS[0].edited.resize((40, 40))
    with pytest.raises(ReinvertError, match="the edited is 40x40 but the source is 48x48: nothing is resized"):
        score(ITEMS[0].source, small, MASK, None, None, "strict", Networks())
    with pytest.raises(ReinvertError, match="the mask is 40x40"):
        score(ITEMS[0].source, ITEMS[0].edited, MASK.resize((40, 40)), None, None, "strict", Networks())


# --- loading -----------------------------------------------------------------------------------------------------


def test_a_folder_of_networks(tmp_path) -> None:
    """Names that are not the published networks' are carried by their columns; what cannot be read says why."""
    vit_folder(tmp_path / "my-vit")
    clip_folder(tmp_path / "my-clip")
    save_file(lpips_tensors("squeeze"), tmp_path / "lpips-squeeze.safetensors")
    (tmp_path / "lpips-alex").mkdir()
    save_file(lpips_tensors("alex"), tmp_path / "lpips-alex" / "both.safetensors")
    made = Networks.load(tmp_path, structure=tmp_path / "my-vit", clip=tmp_path / "my-clip", device="cpu")
    assert made.reasons == {}
    values = score_all(ITEMS[:1], "strict", made)[0].values
    assert {n for n in values if "[" in n or n in PAPER} >= {
        "structure_distance[my-vit]",
        "clip_similarity_target_image[my-clip]",
        "lpips_unedit_part",
        "lpips_unedit_part[alex]",
        "psnr_unedit_part",
    }
    assert "ns_lpips" in values  # published with alex
    told = made.describe()
    assert told["structure"].startswith("my-vit sha256:")
    assert told["lpips"].count("sha256:") == 2


def test_networks_that_cannot_be_loaded_leave_reasons(tmp_path) -> None:
    timm_file(tmp_path / "dino-vitb8.safetensors")  # a copy called so, but not shaped so
    (tmp_path / "lpips-squeeze").mkdir()
    (tmp_path / "lpips-squeeze" / "squeeze.pth").write_bytes(b"")
    made = Networks.load(tmp_path, device="cpu")
    assert (made.lpips, made.structure, made.clip) == ((), None, None)
    assert "is called dino-vitb8 but is another network" in made.reasons["structure"]
    assert f"{tmp_path} has no clip-vit-large-patch14" in made.reasons["clip"]
    assert "squeeze.pth is a pickle" in made.reasons["lpips"]
    scores = score_all(ITEMS[:1], "strict", made)[0]
    assert scores.reasons["lpips_unedit_part"] == made.reasons["lpips"]
    assert scores.values["mse_unedit_part"] is not None
    assert "pickle" in made.describe()["lpips"]


def test_without_a_folder_the_hub_is_asked() -> None:
    """Offline here: a reason each."""
    made = Networks.load(device="cpu")
    for need, name in (("structure", "timm/vit_base_patch8_224.dino"), ("clip", "openai/clip-vit-large-patch14")):
        assert name in made.reasons[need]
    assert "put both into a folder lpips-squeeze" in made.reasons["lpips"]


def test_published_networks_are_known_by_name_and_shape() -> None:
    known = scoring._known
    assert known("dino-vitb8", "timm/vit_base_patch8_224.dino", (12, 768, 8)) == "dino-vitb8"
    assert known("dino-vitb8", "/models/dino_vitb8.safetensors", (12, 768, 8)) == "dino-vitb8"
    assert known("dino-vitb8", "facebook/dino-vits8", (12, 384, 8)) == "dino-vits8"
    assert known("clip-vit-large-patch14", "openai/clip-vit-base-patch32", (12, 768, 32)) == "clip-vit-base-patch32"


def test_picturebooks_own_clip_in_all_three_places(tmp_path, monkeypatch) -> None:
    """Wherever the bundled folder is; without it, a reason for each."""
    monkeypatch.setattr(scoring, "BUNDLED", tmp_path)
    none = Networks.picturebook()
    assert set(none.reasons) == {"lpips", "structure", "clip"}
    assert "not in this installation" in score_all(ITEMS[:1], "strict", none)[0].reasons["lpips_unedit_part"]
    bare = clip_folder(tmp_path / "towers", tokenizer=False)
    clip_folder(tmp_path / "other")  # its tokenizer is the diffusion model's, if it brings none
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer").symlink_to(tmp_path / "other")
    made = Networks.picturebook()
    assert made.reasons == {}
    assert bare.is_dir()
    values = score_all(ITEMS[:1], "strict", made)[0].values
    for name in PAPER:
        full = name if name.startswith(("psnr", "mse", "ssim")) else f"{name}[picturebook]"
        assert values[full] is not None
    assert values["ns_lpips[picturebook]"] is not None
