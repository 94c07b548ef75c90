"""The public verbs: what they take, what they return, and what they refuse before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SOURCE, TARGET, gap, make_picture
from PIL import Image

import reinvert
from reinvert.backbones import memory
from reinvert.backbones.base import Usual
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.editors.prompt import Prompt
from reinvert.errors import ReinvertError
from reinvert.inversions.direct import Direct
from reinvert.trajectory import Trajectory

RUN = {"source": SOURCE, "target": TARGET, "steps": 3}


def test_a_result_says_everything(tiny, picture) -> None:
    result = reinvert.edit(tiny, picture, **RUN, blend=("cat", "dog"), boost={"dog": 2.0}, seed=5)
    assert result.image.size == result.reconstruction.size == (32, 32)
    assert result.images == (result.image,)
    assert result.latents.shape == (2, 3, 16, 16)
    assert result.latents.dtype == torch.float32
    assert (result.forwards, result.backwards) == (3 + 9, 0)
    assert result.seconds > 0
    said = json.loads(json.dumps(result.settings))
    assert said["source"] == SOURCE
    assert said["target"] == [TARGET]
    assert said["inversion"]["name"] == "direct"
    assert said["inversion"]["strength"] == 1.0
    assert [e["name"] for e in said["editors"]] == ["p2p", "local_blend"]
    assert said["editors"][0]["boost"] == {"dog": 2.0}
    assert said["editors"][1]["source_words"] == ["cat"]
    assert (said["steps"], said["guidance"], said["seed"], said["model"]) == (3, 7.5, 5, "tiny-eps")


def test_the_reconstruction_is_the_decoded_source_row(tiny, picture) -> None:
    result = reinvert.edit(tiny, picture, **RUN)
    for row, shown in zip(result.latents, (result.reconstruction, result.image), strict=True):
        pixels = ((tiny.decode(row[None])[0] / 2 + 0.5).clamp(0, 1) * 255).byte()
        assert np.array_equal(np.asarray(shown), pixels.permute(1, 2, 0).numpy())


def test_a_trajectory_edits_like_the_picture_it_came_from(tiny, picture, tmp_path: Path) -> None:
    at_once = reinvert.edit(tiny, picture, **RUN, inversion="negative_prompt", editor="p2p+proximal")
    path = reinvert.invert(tiny, picture, SOURCE, inversion="negative_prompt", steps=3)
    later = reinvert.edit(tiny, path, target=TARGET, editor="p2p+proximal")
    assert torch.equal(at_once.latents, later.latents)
    assert later.forwards == at_once.forwards - 3
    again = reinvert.edit(tiny, path, target=TARGET, editor="p2p+proximal")
    assert torch.equal(again.latents, later.latents)  # it can be edited many times


def test_reconstructing_renders_the_source_alone(tiny, picture) -> None:
    exact = reinvert.reconstruct(tiny, picture, SOURCE, steps=3)
    assert exact.latents.shape == (1, 3, 16, 16)
    assert exact.image is exact.reconstruction
    assert exact.forwards == 3  # an anchored source that nobody reads costs nothing
    assert torch.equal(exact.latents[0], reinvert.edit(tiny, picture, **RUN).latents[0])
    ddim = reinvert.reconstruct(tiny, picture, SOURCE, inversion="ddim", steps=3)
    assert ddim.forwards == 3 + 6
    edited = reinvert.edit(tiny, picture, **RUN, inversion="ddim")
    assert gap(ddim.latents[0], edited.latents[0]) < 1e-4  # the same row in a smaller batch, float32
    trajectory = reinvert.invert(tiny, picture, SOURCE, inversion="ddim", steps=3)
    assert torch.equal(reinvert.reconstruct(tiny, trajectory).latents, ddim.latents)


def test_methods_are_given_by_name_by_instance_or_as_a_list(tiny, picture) -> None:
    wanted = reinvert.edit(tiny, picture, **RUN, strength=0.5, cross=0.8, blend=("cat", "dog"), threshold=0.5).latents
    blend = LocalBlend(("cat",), ("dog",), threshold=0.5)
    for inversion, editor in (
        (Direct(strength=0.5), [P2P(cross=0.8), blend]),
        (Direct(strength=0.5), (P2P(cross=0.8), blend)),
    ):
        assert torch.equal(reinvert.edit(tiny, picture, **RUN, inversion=inversion, editor=editor).latents, wanted)
    named = {"source_words": ("cat",), "target_words": ("dog",), "threshold": 0.5, "cross": 0.8, "strength": 0.5}
    assert torch.equal(reinvert.edit(tiny, picture, **RUN, editor="p2p+local_blend", **named).latents, wanted)
    assert torch.equal(reinvert.edit(tiny, picture, **RUN, editor="local_blend + p2p", **named).latents, wanted)


def test_several_targets_of_one_picture(tiny64, picture) -> None:
    targets = [TARGET, "a horse sitting on a table"]
    both = reinvert.edit(tiny64, picture, source=SOURCE, target=targets, steps=3)
    assert len(both.images) == 2
    assert both.latents.shape[0] == 3
    assert both.settings["target"] == targets
    for i, target in enumerate(targets):
        one = reinvert.edit(tiny64, picture, source=SOURCE, target=target, steps=3)
        assert gap(both.latents[1 + i], one.latents[1]) < 1e-4  # latents are float32 here


def test_a_list_of_pictures_is_a_batch_with_words_of_their_own(tiny, picture, other_picture) -> None:
    prompts = {"source": [SOURCE, "a red house"], "target": [TARGET, "a small house"], "steps": 3}
    both = reinvert.edit(
        tiny,
        [picture, other_picture],
        **prompts,
        blend=[("cat", "dog"), ("red", "small")],
        boost=[{"dog": 2.0}, {"small": 3.0}],
    )
    assert [r.settings["source"] for r in both] == prompts["source"]
    assert both[1].settings["editors"][0]["boost"] == {"small": 3.0}
    first = reinvert.edit(tiny, picture, **RUN, blend=("cat", "dog"), boost={"dog": 2.0})
    second = reinvert.edit(
        tiny, other_picture, source="a red house", target="a small house", steps=3, blend=("red", "small"),
        boost={"small": 3.0},
    )  # fmt: skip
    for one, alone in zip(both, (first, second), strict=True):
        assert gap(one.latents[0], alone.latents[0]) < 1e-5  # float32 in another batch size, from the VAE on
        assert gap(one.latents[1], alone.latents[1]) < 1e-3


def test_a_mask_says_where(tiny, picture) -> None:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 4, 20, 16))
    for run in (
        reinvert.edit(tiny, picture, **RUN, mask=mask),
        reinvert.edit(tiny, reinvert.invert(tiny, picture, SOURCE, steps=3), target=TARGET, mask=mask),
    ):
        changed = (run.latents[1] != run.latents[0]).any(0)
        wanted = torch.zeros(16, 16, dtype=torch.bool)
        wanted[2:8, 4:10] = True  # the box, at half the size
        assert torch.equal(changed, wanted)


def test_pictures_are_fitted_and_paths_opened(tiny, tmp_path: Path) -> None:
    wide = make_picture(2).resize((60, 40))
    wide.save(tmp_path / "wide.png")
    opened = reinvert.edit(tiny, tmp_path / "wide.png", **RUN)
    given = reinvert.edit(tiny, wide, **RUN)
    assert torch.equal(opened.latents, given.latents)
    assert opened.image.size == (32, 32)
    kept = reinvert.edit(tiny, wide, **RUN, fit="keep")
    assert kept.image.size == (48, 32)
    assert kept.latents.shape[-2:] == (16, 24)
    tall = reinvert.edit(tiny, wide.transpose(Image.Transpose.ROTATE_90), **RUN, fit="keep")
    assert tall.latents.shape[-2:] == (24, 16)


@pytest.mark.parametrize("grid", [16, 8])
@pytest.mark.parametrize("size", [(48, 32), (32, 56)])
def test_words_are_found_in_pictures_that_are_not_square(tiny, size: tuple[int, int], grid: int) -> None:
    picture = make_picture(2).resize(size)
    words = {"blend": ("cat", "dog"), "threshold": 0.7, "grid": grid}
    result = reinvert.edit(tiny, picture, **RUN, fit="keep", **words)
    assert result.image.size == size
    kept = (result.latents[1] == result.latents[0]).all(0)
    assert kept.shape == (size[1] // 2, size[0] // 2)
    assert 0 < kept.float().mean() < 1


def test_progress_is_watched_from_outside(tiny, picture) -> None:
    seen = []
    reinvert.edit(tiny, picture, **RUN, watch=lambda p: seen.append((p.stage, p.done, p.total)))
    assert seen == [*(("inverting", i, 3) for i in (1, 2, 3)), *(("editing", i, 3) for i in (1, 2, 3))]


def test_the_same_call_gives_the_same_result(tiny, picture) -> None:
    one, two = (reinvert.edit(tiny, picture, **RUN, blend=("cat", "dog")) for _ in range(2))
    assert torch.equal(one.latents, two.latents)
    assert one.image.tobytes() == two.image.tobytes()


WRONG = [
    ({"steps": 0}, "0 steps cannot be taken; choose between 1 and 1000"),
    ({"steps": 1001}, "1001 steps cannot be taken; choose between 1 and 1000"),
    ({"inversion": "directt"}, "there is no inversion 'directt'; did you mean direct"),
    ({"editor": "p2q"}, "there is no editor 'p2q'; did you mean p2p"),
    ({"editor": "p2p+proxmal"}, "there is no editor 'proxmal'; did you mean proximal"),
    ({"strenght": 0.4}, "neither the inversion nor the editor has an argument 'strenght'; they have "),
    ({"editor": "prompt", "boost": {"dog": 2.0}}, "boost belongs to p2p; choose --editor p2p"),
    ({"blend": ("bird", "dog")}, "'bird' does not occur in 'a cat sitting on a table'; the words are: a, cat, sitting"),
    ({"boost": {"bird": 2.0}}, "'bird' does not occur in 'a dog sitting on a table'"),
    ({"kind": "replace", "target": "a big dog"}, "equally many words"),
    ({"cross": 1.5}, "share of the run"),
    ({"target": []}, "give a target prompt"),
    ({"target": (), "editor": None}, "give a target prompt"),
    ({"source": None}, "say what the picture shows"),
    ({"source": [SOURCE, SOURCE]}, "1 pictures need 1 source prompts, not 2"),
    ({"inversion": Direct(), "strength": 0.4}, "set strength on the inversion itself"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_bad_input_is_refused_before_anything_is_computed(tiny, picture, change, said: str) -> None:
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match=said) as caught:
        reinvert.edit(tiny, picture, **RUN | change)
    assert tiny.tally == before
    assert "\n" not in str(caught.value)


def test_batches_that_do_not_fit_are_refused(tiny, picture, other_picture) -> None:
    both = [picture, other_picture]
    with pytest.raises(ReinvertError, match="2 pictures need 2 source prompts, not 1"):
        reinvert.edit(tiny, both, **RUN)
    with pytest.raises(ReinvertError, match="2 pictures need 2 target prompts, not 1"):
        reinvert.edit(tiny, both, source=[SOURCE] * 2, target=TARGET, steps=3)
    sizes = [picture, other_picture.resize((64, 32))]
    with pytest.raises(ReinvertError, match="must come out the same size"):
        reinvert.edit(tiny, sizes, source=[SOURCE] * 2, target=[TARGET] * 2, steps=3, fit="keep")
    with pytest.raises(ReinvertError, match="2 pictures need 2 blends and boosts"):
        reinvert.edit(tiny, both, source=[SOURCE] * 2, target=[TARGET] * 2, steps=3, boost=[{}])
    with pytest.raises(ReinvertError, match="2 pictures need 2 masks"):
        reinvert.edit(tiny, both, source=[SOURCE] * 2, target=[TARGET] * 2, steps=3, mask=[picture])
    with pytest.raises(ReinvertError, match="at least one picture"):
        reinvert.invert(tiny, [], [])


def test_an_editor_of_its_own_is_as_good_as_ours(tiny, picture) -> None:
    class Mine(Prompt):
        name = "mine"

    result = reinvert.edit(tiny, picture, **RUN, editor=Mine())
    assert torch.equal(result.latents, reinvert.edit(tiny, picture, **RUN, editor="prompt").latents)
    assert result.settings["editors"][0]["name"] == "mine"


def test_steps_and_guidance_are_what_is_usual_for_the_model(tiny, picture, monkeypatch) -> None:
    monkeypatch.setattr(tiny, "usual", Usual(3, 2.0))
    path = reinvert.invert(tiny, picture, SOURCE)
    assert path.steps == 3
    by_default = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET)
    asked = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=3, guidance=2.0)
    assert by_default.settings == asked.settings
    assert by_default.settings["guidance"] == 2.0
    assert torch.equal(by_default.latents, asked.latents)
    # a trajectory that was fitted to a scale is edited at it
    fitted = reinvert.invert(tiny, picture, SOURCE, inversion="null_text", guidance=4.0, inner=1)
    assert reinvert.edit(tiny, fitted, target=TARGET).settings["guidance"] == 4.0
    assert reinvert.reconstruct(tiny, fitted).settings["guidance"] == 4.0


def test_an_inversion_that_a_model_cannot_have_is_refused(tiny, picture, monkeypatch) -> None:
    monkeypatch.setattr(tiny, "null_side", False, raising=False)
    before = tiny.tally.copy()
    for call in (reinvert.invert, reinvert.reconstruct):
        with pytest.raises(ReinvertError, match="null_text learns the null side of guidance, which tiny-eps does not"):
            call(tiny, picture, SOURCE, inversion="null_text", steps=2)
    with pytest.raises(ReinvertError, match="proximal acts on the null side"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="p2p+proximal", steps=2)
    assert tiny.tally.since(before).forwards == 0


@pytest.mark.parametrize("inversion", ["direct", pytest.param("null_text", marks=pytest.mark.slow), "edict"])
def test_batches_change_nothing(tiny64, inversion) -> None:
    pictures = [make_picture(seed) for seed in range(5)]
    sources, targets = [SOURCE] * 5, [TARGET, SOURCE, TARGET, TARGET, SOURCE]
    masks = [Image.new("L", (32, 32), 255 if seed % 2 else 0) for seed in range(5)]
    more = {"steps": 2, "inversion": inversion} | ({"inner": 1} if inversion == "null_text" else {})
    kept, seen = [], []
    for size in (5, 2):
        run = {"source": sources, "target": targets, "mask": masks, "batch_size": size}
        edited = reinvert.edit(tiny64, pictures, **run, **more, watch=seen.append if size == 2 else None)
        path = reinvert.invert(tiny64, pictures, sources, **more, batch_size=size)
        again = reinvert.edit(tiny64, path, target=targets, mask=masks, batch_size=size)
        rendered = reinvert.reconstruct(tiny64, path, batch_size=size)
        kept.append([torch.stack([r.latents for r in results]) for results in (edited, again)])
        kept[-1] += [torch.stack([r.latents for r in rendered]), path.path, path.start]
        assert [result.settings["target"] for result in edited] == [[target] for target in targets]
        assert path.prompts == (SOURCE,) * 5
        assert len(path.info["fits"]) == 5
        forwards = {result.forwards for result in edited}
    for whole, parts in zip(*kept, strict=True):
        assert whole.shape == parts.shape
        assert gap(whole, parts) < 1e-9
    assert forwards == {edited[0].forwards}
    assert [step.stage for step in seen if step.done == 1][-1] == "editing, batch 3 of 3"


def test_some_cases_of_a_trajectory_and_all_of_them_again(tiny, tmp_path) -> None:
    pictures = [make_picture(seed) for seed in range(3)]
    path = reinvert.invert(tiny, pictures, [SOURCE, TARGET, SOURCE], steps=2, inversion="null_text", inner=1)
    joined = Trajectory.join([path.case(0), path.cases(slice(1, 3))])
    assert torch.equal(joined.path, path.path)
    assert torch.equal(joined.null.tokens, path.null.tokens)
    assert joined.prompts == path.prompts
    assert joined.info == path.info
    # a case's mask fits the case's own picture
    reinvert.edit(tiny, path.case(1), target=SOURCE, mask=Image.new("L", (32, 32), 255))


def test_by_default_a_batch_fits_the_memory(tiny, monkeypatch) -> None:
    row = memory.LAYERS * 16 * 16 * 8 * 4
    for free, rows, gradients, expected in (
        (10**12, 4, False, memory.MOST),
        (2 * 4 * row * 3, 4, False, 3),
        (2 * 4 * row * 3, 4, True, 1),
        (10, 4, False, 1),
        (None, 4, False, 1),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert memory.at_once(tiny, (16, 16), rows, gradients) == expected
    monkeypatch.undo()
    assert (memory.free_memory(torch.device("cpu")) or 2**30) > 2**20


class Small:
    """Stands in for a device whose memory is enough for so many rows of the network at a time."""

    def __init__(self, model, rows: int) -> None:
        self.forward, self.rows, self.seen = model.unet.forward, rows, list[int]()

    def __call__(self, sample, *args, **kwargs):
        self.seen.append(len(sample))
        if len(sample) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.forward(sample, *args, **kwargs)


def test_a_batch_is_halved_where_the_memory_is_not_enough(tiny, monkeypatch) -> None:
    pictures, run = (
        [make_picture(seed) for seed in range(5)],
        {"source": [SOURCE] * 5, "target": [TARGET] * 5, "steps": 2},
    )
    alone = [reinvert.edit(tiny, p, source=SOURCE, target=TARGET, steps=2).latents for p in pictures]
    monkeypatch.setattr("reinvert.request._at_once", lambda *_: 8)
    small, stages = Small(tiny, 3 * 2), list[str]()
    monkeypatch.setattr(tiny.unet, "forward", small)
    results = reinvert.edit(tiny, pictures, **run, watch=lambda step: stages.append(step.stage))
    assert [gap(r.latents, one) < 1e-4 for r, one in zip(results, alone, strict=True)] == [True] * 5
    assert small.seen[:2] == [5, 5]  # inverted together
    assert small.seen.count(15) == 1  # edited together once, and never again
    assert max(small.seen[4:]) == 6
    assert stages[-1] == "editing, batch 3 of 3"
    # a size that was asked for is kept
    with pytest.raises(torch.OutOfMemoryError):
        reinvert.edit(tiny, pictures, **run, batch_size=5)
    # and one picture that does not fit is an error
    monkeypatch.setattr(tiny.unet, "forward", Small(tiny, 0))
    with pytest.raises(torch.OutOfMemoryError):
        reinvert.edit(tiny, pictures, **run)


def test_a_batch_that_went_through_is_followed_by_a_larger_one(tiny, monkeypatch) -> None:
    pictures = [make_picture(seed) for seed in range(8)]
    monkeypatch.setattr("reinvert.request._at_once", lambda *_: 1)
    monkeypatch.setattr("reinvert.request.largest", lambda device, size: memory.largest(torch.device("cuda"), size))
    small = Small(tiny, 3)
    monkeypatch.setattr(tiny.unet, "forward", small)
    path = reinvert.invert(tiny, pictures, [SOURCE] * 8, steps=1)
    assert small.seen == [1, 2, 4, 2, 2, 1]  # 4 do not fit: 2 is the size from there on
    monkeypatch.undo()
    assert gap(path.path, reinvert.invert(tiny, pictures, [SOURCE] * 8, steps=1).path) < 1e-5
    assert memory.largest(torch.device("cpu"), 3) == 3
    assert memory.largest(torch.device("cuda"), 20) == 20
