"""The command line: mostly `main([...])` in this process, and a handful of runs of the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

from reinvert import registry
from reinvert.backbones import loading
from reinvert.cli import build_parser, main, program
from reinvert.cli.flags import PREFIX, Chosen
from reinvert.differences import edited_region, grown, psnr
from reinvert.errors import ReinvertError
from reinvert.image import fit_mask, plan_fit
from reinvert.values import kind_of, show

SOURCE, TARGET = "a cat sitting on a table", "a dog sitting on a table"
GROUPS = ("inversions", "editors")


@pytest.fixture
def here(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a picture that is not square; the tiny model stands in for the bundled one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loading.BUNDLED, "picturebook", tiny_folder)
    make_picture(0).resize((90, 70)).save("cat.png")
    return tmp_path


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the program: (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def edit(*more: object) -> tuple[object, ...]:
    return ("edit", "cat.png", "--source", SOURCE, "--target", TARGET, "--steps", 2, *more)


def program_run(*argv: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    source = Path(__file__).parents[1] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "reinvert", *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )


# --- the real program ----------------------------------------------------------------------------------------------


def test_help_does_not_wait_for_torch(tmp_path: Path):
    checked = "import sys; sys.argv = ['reinvert', '--help']; from reinvert.cli import main; main(); "
    checked += "sys.exit(int('torch' in sys.modules or 'numpy' in sys.modules))"
    source = Path(__file__).parents[1] / "src"
    before = time.process_time()
    done = subprocess.run(
        [sys.executable, "-c", checked],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    for name in program.COMMANDS:
        assert name in done.stdout
    assert time.process_time() - before < 5


def test_the_program_edits_and_says_only_where(tmp_path: Path, tiny_folder: Path):
    make_picture(0).save(tmp_path / "cat.png")
    argv = [str(a) for a in edit("--model", tiny_folder, "-o", "dog.png")]
    done = program_run(*argv, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "dog.png\n", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat.png", "dog.png", "dog.png.json"]


def test_the_program_fails_in_one_sentence(tmp_path: Path):
    done = program_run("edit", "missing.png", "--source", "a", "--target", "b", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "reinvert: missing.png does not exist: check the path.\n"


def test_a_closed_pipe_is_quiet(tmp_path: Path):
    source = Path(__file__).parents[1] / "src"
    with subprocess.Popen(
        [sys.executable, "-m", "reinvert", "methods", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
    assert running.returncode == program.BROKEN_PIPE


# --- editing -------------------------------------------------------------------------------------------------------


def test_an_edit_and_its_sidecar(here: Path, say: Say):
    status, out, _ = say(*edit("--cross", "0.5", "dog=0.2:1", "--strength", "0.9", "--boost", "dog=2"))
    assert (status, out) == (0, "cat.edit.png\n")
    assert Image.open("cat.edit.png").size == (32, 32)
    told = json.loads(Path("cat.edit.png.json").read_text())
    settings = told["settings"]
    assert settings["model"] == "picturebook"
    assert (settings["source"], settings["target"], settings["steps"]) == (SOURCE, TARGET, 2)
    assert settings["inversion"] == {
        **{a.name: a.default for a in registry.arguments(registry.find("inversions", "direct"))},
        "name": "direct",
        "strength": 0.9,
    }
    assert settings["editors"][0]["cross"] == {"default_": 0.5, "dog": [0.2, 1.0]}
    assert settings["editors"][0]["boost"] == {"dog": 2.0}
    assert {"reinvert", "torch", "diffusers", "transformers", "python"} <= set(told["versions"])
    assert told["command"].startswith("reinvert edit cat.png --source 'a cat sitting on a table'")
    assert told["device"].startswith("cpu")
    assert told["forwards"] > 0
    assert told["backwards"] == 0
    assert told["seconds"] > 0
    assert told["size"] == [32, 32]
    assert len(told["input"]["sha256"]) == 64
    assert sorted(p.name for p in here.iterdir()) == ["cat.edit.png", "cat.edit.png.json", "cat.png"]


def test_the_same_command_gives_the_same_bytes(here: Path, say: Say):
    say(*edit("-o", "one.png"))
    say(*edit("-o", "two.png"))
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_several_targets(here: Path, say: Say):
    status, out, _ = say(*edit("--target", "a bird sitting on a table", "-o", "out.png"))
    assert (status, out) == (0, "out-1.png\nout-2.png\n")
    assert json.loads(Path("out-2.png.json").read_text())["settings"]["target"] == "a bird sitting on a table"


def test_a_trajectory_is_as_good_as_the_picture(here: Path, say: Say):
    say(*edit("--blend", "cat", "dog", "-o", "direct.png"))
    status, out, _ = say("invert", "cat.png", "--source", SOURCE, "--steps", 2)
    assert (status, out) == (0, "cat.trajectory.safetensors\n")
    told = json.loads(Path("cat.trajectory.safetensors.json").read_text())
    assert told["forwards"] == 2
    assert told["settings"]["inversion"]["name"] == "direct"
    status, out, _ = say("edit", "cat.trajectory.safetensors", "--target", TARGET, "--blend", "cat", "dog")
    assert (status, out) == (0, "cat.edit.png\n")
    assert Path("cat.edit.png").read_bytes() == Path("direct.png").read_bytes()
    status, out, _ = say("reconstruct", "cat.trajectory.safetensors")
    assert status == 0
    assert "VAE's round trip" in out


def test_half_is_smaller(here: Path, say: Say):
    say("invert", "cat.png", "--source", SOURCE, "--steps", 2, "-o", "full.trajectory.safetensors")
    say("invert", "cat.png", "--source", SOURCE, "--steps", 2, "--half", "-o", "half.trajectory.safetensors")
    sizes = [Path(f"{name}.trajectory.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.8 * sizes[1]
    assert say("edit", "half.trajectory.safetensors", "--target", TARGET)[0] == 0


def test_a_null_text_trajectory_keeps_its_guidance(here: Path, say: Say):
    name = "n.trajectory.safetensors"
    common = ("--inversion", "null_text", "--inner", 1, "--guidance", 3, "--steps", 2, "-o", name)
    assert say("invert", "cat.png", "--source", SOURCE, *common)[0] == 0
    assert say("edit", name, "--target", TARGET)[0] == 0
    assert json.loads(Path("n.edit.png.json").read_text())["settings"]["guidance"] == 3
    status, _, err = say("edit", name, "--target", TARGET, "--guidance", 5)
    assert status == 2
    assert "guidance" in err


def test_reconstruct(here: Path, say: Say):
    status, out, _ = say("reconstruct", "cat.png", "--source", SOURCE, "--steps", 2)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "cat.reconstruction.png"
    assert lines[1].startswith("PSNR to the input")
    assert lines[2].endswith("identical")  # direct inversion promises it
    told = json.loads(Path("cat.reconstruction.png.json").read_text())
    assert told["psnr"]["the VAE's round trip"] == "inf"


def test_a_drawing_brings_its_caption(here: Path, say: Say):
    assert say("draw", "a red cat on grass", "--size", 32, "-o", "drawn.png")[0] == 0
    assert say("edit", "drawn.png", "--target", "a red dog on grass", "--steps", 1)[0] == 0
    assert json.loads(Path("drawn.edit.png.json").read_text())["settings"]["source"] == "a red cat on grass"


def test_photographs_are_told_from_drawings(here: Path, say: Say, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    folder = here / "standing-in"
    folder.mkdir()
    for item in tiny_folder.iterdir():
        (folder / item.name).symlink_to(item)
    looks = {"psnr": 24, "least_even": 0, "most_even": 1, "most_grey": 1, "most_foreign": 1, "colors": ["#ffffff"]}
    (folder / "reinvert.json").write_text(json.dumps({"pictures": looks}))
    monkeypatch.setitem(loading.BUNDLED, "picturebook", folder)
    warned = "does not look like picturebook's drawn world"
    assert warned in say(*edit())[2]  # the tiny model's VAE renders noise
    assert say(*edit("--force")) == (0, "cat.edit.png\n", "")
    assert warned not in say(*edit("--model", tiny_folder))[2]


def test_explain_runs_nothing(here: Path, say: Say):
    status, out, err = say(*edit("--explain", "--boost", "dog=2"))
    assert (status, err) == (0, "")
    assert "its own" in out
    assert "source's" in out
    assert "step 1 to step 1" in out
    assert [p.name for p in here.iterdir()] == ["cat.png"]


@pytest.mark.parametrize(
    "names", [("ddim", "direct", "negative_prompt"), ("prompt", "p2p", "p2p+proximal", "ddim+prompt")]
)
def test_compare_makes_one_sheet(here: Path, say: Say, names: tuple[str, ...]):
    status, out, _ = say(*edit("--compare", *names))
    assert (status, out) == (0, "cat.compare.png\n")
    told = json.loads(Path("cat.compare.png.json").read_text())
    assert [run["name"] for run in told["compared"]] == list(names)
    assert len(told["inversions"]) == (3 if "direct" in names else 2)
    width = Image.open("cat.compare.png").width
    assert width > 256 * (len(names) + 1)


def test_a_compared_column_is_the_edit_itself(here: Path, say: Say):
    say("invert", "cat.png", "--source", SOURCE, "--steps", 2, "-o", "a.trajectory.safetensors")
    status, _, _ = say("edit", "a.trajectory.safetensors", "--target", TARGET, "--compare", "p2p", "prompt")
    assert status == 0
    told = json.loads(Path("a.compare.png.json").read_text())
    assert told["inversions"] == []


# --- pasting back --------------------------------------------------------------------------------------------------


def untouched(region: Image.Image | np.ndarray) -> np.ndarray:
    """Pixels of the 90x70 original that an edit of this region leaves alone, with room for its soft border."""
    fit = plan_fit((90, 70), 32, 4)
    share = np.zeros((70, 90), bool)
    box = fit.box
    scaled = Image.fromarray(np.asarray(region, np.uint8) * 255).resize(
        (box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR
    )
    share[box[1] : box[3], box[0] : box[2]] = np.asarray(scaled) > 0
    return ~share


def test_paste_back_by_mask_is_exact_outside(here: Path, say: Say):
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask).save("mask.png")
    assert say(*edit("--mask", "mask.png", "--paste-back"))[0] == 0
    before, after = np.asarray(Image.open("cat.png")), np.asarray(Image.open("cat.edit.png"))
    assert after.shape == before.shape
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask == 255] != before[mask == 255]).any()
    assert json.loads(Path("cat.edit.png.json").read_text())["settings"]["region"]["from"] == "the given mask"


def test_paste_back_by_local_blend_is_exact_outside(here: Path, say: Say):
    argv = edit("--blend", "cat", "dog", "--threshold", "0.8", "--paste-back")
    assert say(*argv)[0] == 0
    region = json.loads(Path("cat.edit.png.json").read_text())["settings"]["region"]
    assert region["from"] == "blended cells"
    assert 0 < region["share"] < 1
    before, after = np.asarray(Image.open("cat.png")), np.asarray(Image.open("cat.edit.png"))
    same = (before == after).all(axis=-1)
    # No less than the region's complement is untouched: the share of the crop, and all that was cropped away.
    assert same.sum() >= (1 - region["share"]) * 70 * 70 * 0.6
    assert same[:, :10].all()
    assert same[:, 80:].all()


def test_paste_back_without_a_mask_takes_what_changed(here: Path, say: Say):
    assert say(*edit("--paste-back"))[0] == 0
    assert json.loads(Path("cat.edit.png.json").read_text())["settings"]["region"]["from"] == "changed pixels"
    assert Image.open("cat.edit.png").size == (90, 70)


def test_the_region_of_a_blend_is_the_mask_that_was_given(tiny, picture):
    import reinvert

    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (8, 8, 20, 16))
    result = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, mask=mask, steps=3)
    region, origin = edited_region(result)
    assert origin == "blended cells"
    assert (region == (np.asarray(fit_mask(mask, plan_fit((32, 32), 32, 4))) > 0)).all()


def test_grown_and_psnr():
    mask = np.zeros((5, 7), bool)
    mask[2, 3] = True
    assert grown(mask, 1)[1:4, 2:5].all()
    assert grown(mask, 1).sum() == 9
    grey = [Image.new("RGB", (4, 4), (level,) * 3) for level in (10, 20)]
    assert psnr(grey[0], grey[0]) == float("inf")
    assert psnr(*grey) == pytest.approx(20 * np.log10(25.5))


# --- drawing, listing, the demo ------------------------------------------------------------------------------------


def test_draw(here: Path, say: Say):
    assert say("draw", "a striped cat wearing a hat on sand", "--seed", 4)[:2] == (0, "scene.png\n")
    first = Path("scene.png").read_bytes()
    assert say("draw", "--scene", "scene.png.json", "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == first
    scene = json.dumps(json.loads(Path("scene.png.json").read_text())["scene"])
    assert say("draw", "--scene", scene, "-o", "inline.webp", "--size", 100)[0] == 0
    assert Image.open("inline.webp").size == (100, 100)
    assert say("draw", "--random", "--seed", 9, "-o", "any.png")[0] == 0
    assert json.loads(Path("any.png.json").read_text())["caption"]


def test_methods(say: Say):
    status, out, _ = say("methods")
    told = json.loads(say("methods", "--json")[1])
    assert status == 0
    assert {m["name"] for m in told} == {name for group in (*GROUPS, "trained") for name in registry.names(group)}
    for method in told:
        assert method["name"] in out
        assert method["sentence"]
        assert method["needs"]
    page = say("methods", "p2p")[1]
    for a in registry.arguments(registry.find("editors", "p2p")):
        assert f"--{a.name.replace('_', '-')}" in page
        assert a.help[:30] in page.replace("\n      ", " ")
    one = json.loads(say("methods", "p2p", "--json")[1])
    assert one["arguments"][1]["default"] == 0.4


def test_demo(here: Path, say: Say):
    status, out, _ = say("demo", "-o", "new/demo", "--steps", 2)
    assert (status, out) == (0, f"{Path('new/demo/demo.png')}\n")
    told = json.loads(Path("new/demo/demo.png.json").read_text())
    assert len(told["edits"]) >= 5
    pictures = list(Path("new/demo").glob("*.png"))
    assert len(pictures) >= len(told["edits"]) + 2
    assert all(p.with_name(f"{p.name}.json").is_file() for p in pictures)


# --- generated flags -----------------------------------------------------------------------------------------------

TOGETHER = {"mask_source": ["--mask-target", "x"], "mask_target": ["--mask-source", "x"]}
"""Fields that are only allowed with another one."""
OF_ITS_OWN = {"strategy": "add_q", "double": "3", "single": "4,5", "inject": "4"}
"""Where the plain value below is none of the field's, or is its default."""
TYPED = {"": "x", "X": "0.22", "N": "3", "TEXT": "x", "WORD,WORD": "x,y", "WORD=X": "x=2"} | {
    "SHARE": "0.1:0.2",
    "SHARE|WORD=SHARE": "x=0.1",
    "JSON": "null",
}


@pytest.mark.parametrize("command", ["edit", "invert", "reconstruct"])
def test_every_field_of_every_method_has_a_flag(command: str):
    groups = GROUPS if command == "edit" else GROUPS[:1]
    parser = build_parser(command)
    for group in groups:
        for method in registry.names(group):
            cls = registry.find(group, method)
            for argument in registry.arguments(cls):
                kind = kind_of(argument.type)
                value = str(kind.choices[-1]) if kind.choices else OF_ITS_OWN.get(argument.name, TYPED[kind.metavar])
                for flag in (argument.name, f"{method}.{argument.name}"):
                    typed = f"--{flag.replace('_', '-')}"
                    typed_value = [typed, *([] if kind.toggle else [value])]
                    args = parser.parse_args([command, "x.png", *typed_value, *TOGETHER.get(argument.name, [])])
                    assert PREFIX + flag in vars(args)
                made = {f.name: getattr(_made(args, group, method), f.name) for f in fields(cls)}
                assert made[argument.name] != argument.default or kind.choices
                together = {name.removeprefix("--").replace("-", "_") for name in TOGETHER.get(argument.name, [])}
                others = {n: v for n, v in made.items() if n != argument.name and n not in together}
                assert others == {a.name: a.default for a in registry.arguments(cls) if a.name in others}


def _made(args: object, group: registry.Group, method: str) -> object:
    chosen = Chosen(args)  # type: ignore[arg-type]
    try:
        return chosen.make(group, method)
    except ReinvertError:  # a value out of the field's own range, such as 3 where 1 is the most
        pytest.fail(f"{method} refuses a plain value")


def test_help_has_the_options_that_matter(say: Say):
    status, out, _ = say("edit", "--help")
    assert status == 0
    assert len(out.splitlines()) < 70
    own = {a.name for group in GROUPS for m in registry.names(group) for a in registry.schema(group, m)}
    for name in own - {"mask"}:
        assert f"--{name.replace('_', '-')} " not in out
    assert "reinvert methods NAME" in out
    assert "reinvert edit --help --inversion NAME --editor NAME" in " ".join(out.split())


@pytest.mark.parametrize("group", GROUPS)
def test_help_shows_the_options_of_the_methods_that_are_named(say: Say, group: registry.Group):
    for method in registry.names(group):
        status, out, _ = say("edit", f"--{group.removesuffix('s')}", method, "--help")
        assert status == 0
        arguments = registry.schema(group, method)
        assert (f"{group.removesuffix('s')} {method}:" in out) == bool(
            arguments or registry.describe(group, method).title
        )
        section = out.split(f"{group.removesuffix('s')} {method}:")[-1]
        for argument in arguments:
            assert argument.name.replace("_", "-") in section
    assert "Share of the correction that is applied. [1]" in say("invert", "--help", "--inversion=direct")[1]
    both = say("edit", "--help", "--inversion", "direct", "--editor", "p2p+proximal")[1]
    for heading in ("inversion direct:", "editor p2p:", "editor proximal:"):
        assert heading in both


def test_flags_have_types():
    parser = build_parser("edit")

    def made(group: registry.Group, method: str, *argv: str) -> object:
        return Chosen(parser.parse_args(["edit", "x.png", *argv])).make(group, method)

    p2p = made("editors", "p2p", "--cross", "0.5", "a b=0.2:0.9", "--self-attention", "0:1", "--kind", "replace")
    assert (p2p.cross, p2p.self_attention, p2p.kind) == ({"default_": 0.5, "a b": (0.2, 0.9)}, (0.0, 1.0), "replace")  # type: ignore[attr-defined]
    assert made("editors", "p2p", "--cross", "dog=0.2").cross == {"default_": 0.4, "dog": 0.2}  # type: ignore[attr-defined]
    assert made("editors", "p2p", "--cross", "0.2").cross == 0.2  # type: ignore[attr-defined]
    blend = made("editors", "local_blend", "--source-without", "a, b c")
    assert blend.source_without == ("a", "b c")  # type: ignore[attr-defined]
    assert made("inversions", "null_text", "--single-branch").single_branch is True  # type: ignore[attr-defined]
    assert made("inversions", "null_text", "--no-single-branch").single_branch is False  # type: ignore[attr-defined]
    # A name that two methods use: the plain flag means both, the long one its own.
    shared = ("--inversion-guidance", "0.5", "--proximal.inversion-guidance", "1")
    assert made("inversions", "direct", *shared).inversion_guidance == 0.5  # type: ignore[attr-defined]
    assert made("editors", "proximal", *shared).inversion_guidance == 1  # type: ignore[attr-defined]


def test_values_are_shown_as_they_are_typed():
    assert show({"default_": 0.4, "dog": (0.2, 0.9)}) == "0.4 dog=0.2:0.9"
    assert [show(v) for v in (None, True, 1e-5, (), ("a", "b"), {})] == ["none", "yes", "1e-05", "none", "a,b", "none"]
    assert kind_of(int | None).read("none") is None
    assert kind_of(int | None).read("3") == 3
    assert kind_of(dict).read("[1]") == [1]


# --- wrong input ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[tuple[object, ...], str]] = [
    (("edti",), "did you mean edit"),
    (("edit",), "IMAGE"),
    (("edit", "missing.png", "--source", "a", "--target", "b"), "does not exist"),
    (("edit", "notes.txt", "--source", "a", "--target", "b"), "not an image"),
    (("edit", ".", "--source", "a", "--target", "b"), "the folder of the results with -o"),
    (("edit", "cat.png", "--source", SOURCE), "--target"),
    (("edit", "cat.png", "--target", TARGET), "--source"),
    (edit("--inversion", "dirct"), "did you mean direct"),
    (edit("--editor", "p2p+proximl"), "did you mean proximal"),
    (edit("--model", "nonsense"), "nonsense"),
    (edit("--model", "cat.png"), "is a file, but not a model that can be read"),
    (edit("--device", "toaster"), "toaster"),
    (edit("--dtype", "float7"), "float7"),
    (edit("--steps", "many"), "--steps"),
    (edit("--steps", "0"), "0 steps"),
    (edit("--steps", "100000"), "100000 steps"),
    (edit("--guidance", "nan"), "--guidance"),
    (edit("--seed", "1.5"), "--seed"),
    (edit("--fit", "squeeze"), "--fit"),
    (edit("--strength", "2"), "strength"),
    (edit("--strength", "x"), "--strength"),
    (edit("--kind", "other"), "--kind"),
    (edit("--kind", "replace", "--target", "a dog"), "equally many words"),
    (edit("--cross", "1.5"), "share"),
    (edit("--cross", "0.9:0.1"), "share"),
    (edit("--boost", "dog"), "dog=2"),
    (edit("--boost", "dog=x"), "--boost"),
    (edit("--boost", "bird=2"), "the words are: a, dog, sitting, on, table"),
    (edit("--boost", "dog=2", "--editor", "prompt"), "--boost belongs to p2p"),
    (edit("--cross", "bird=0.4"), "'bird' does not occur"),
    (edit("--blend", "bird", "dog"), "the words are: a, cat, sitting, on, table"),
    (edit("--blend", "cat", "bird"), "the words are: a, dog"),
    (edit("--blend", "cat"), "--blend"),
    (edit("--blend", "", ""), "local_blend needs a word"),
    (edit("--editor", "p2p+local_blend"), "local_blend needs a word"),
    (edit("--source-without", "table"), "belongs to local_blend"),
    (edit("--quantile", "0.7"), "belongs to proximal"),
    (edit("--inversion", "ddim", "--inner", "3"), "belongs to direct and null_text"),
    (edit("--direct.strength", "0.3", "--inversion", "ddim"), "belongs to direct"),
    (edit("--stength", "0.3"), "did you mean --strength"),
    (edit("a", "stray", "word"), "in quotes"),
    (edit("--mask", "missing.png"), "does not exist"),
    (edit("--mask", "small.png"), "90x70"),
    (edit("-o", "nowhere/out.png"), "does not exist"),
    (edit("-o", "out.gif"), ".png"),
    (edit("-o", "folder.png"), "is a folder"),
    (edit("-o", "cat.png"), "would be overwritten"),
    (edit("--mask", "ok.png", "-o", "ok.png"), "would be overwritten"),
    (edit("--explain", "--editor", "prompt"), "--editor p2p"),
    (edit("--explain", "--blend", "cat", "bird"), "'bird' does not occur"),
    (edit("--compare", "direct", "sideways"), "'sideways'"),
    (edit("--compare", "ddim+direct"), "two inversions"),
    (edit("--compare", "direct", "--paste-back"), "--paste-back"),
    (edit("--compare", "prompt", "--quantile", "0.7"), "belongs to proximal"),
    (("edit", "missing.trajectory.safetensors", "--target", "b"), "does not exist"),
    (("edit", "bad.trajectory.safetensors", "--target", "b"), "damaged"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--source", "other"), "leave --source out"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--inversion", "ddim"), "--inversion"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--fit", "pad"), "--fit"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--steps", "7"), "not 7"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--strength", "0.5"), "belongs to direct"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--paste-back"), "--paste-back"),
    (("edit", "good.trajectory.safetensors", "--target", "b", "--compare", "ddim"), "inverted already"),
    (("invert", "cat.png", "--source", SOURCE, "-o", "x.png"), "safetensors"),
    (("invert", "good.trajectory.safetensors"), "trajectory already"),
    (("invert", "cat.png", "--source", SOURCE, "--quantile", "0.7"), "no option --quantile"),
    (("reconstruct", "cat.png"), "--source"),
    (("methods", "nothing"), "`reinvert methods` lists them"),
    (("draw",), "say what to draw"),
    (("draw", "a cow on grass"), "'cow'"),
    (("draw", "a cat on grass", "--random"), "not allowed"),
    (("draw", "a cat on grass", "--size", "3"), "--size"),
    (("draw", "--scene", "{"), "not valid JSON"),
    (("draw", "--scene", "missing.json"), "neither"),
    (("draw", "--scene", "cat.png"), "not"),
    (("demo", "-o", "notes.txt"), "is a file"),
    (("demo", "--steps", "0"), "0 steps"),
]


@pytest.fixture(scope="session")
def good_trajectory(tmp_path_factory: pytest.TempPathFactory, tiny, picture) -> bytes:
    import reinvert

    path = tmp_path_factory.mktemp("t") / "good.trajectory.safetensors"
    reinvert.invert(tiny, picture, "a cat sitting on a table", steps=2).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(("argv", "said"), WRONG, ids=[" ".join(map(str, w[0]))[-60:] for w in WRONG])
def test_wrong_input_is_one_sentence(
    here: Path, say: Say, good_trajectory: bytes, tiny_folder: Path, argv: tuple[object, ...], said: str
):
    Path("notes.txt").write_text("not a picture")
    Path("bad.trajectory.safetensors").write_bytes(b"x" * 100)
    Path("good.trajectory.safetensors").write_bytes(good_trajectory)
    Path("folder.png").mkdir()
    Image.new("L", (10, 10), 255).save("small.png")
    Image.new("L", (90, 70), 255).save("ok.png")
    if "good.trajectory.safetensors" in argv and argv[0] == "edit":
        argv = (*argv, "--model", tiny_folder)
    before = {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}
    status, out, err = say(*argv)
    assert status == 2
    assert out == ""
    lines = [line for line in err.splitlines() if "drawn world" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("reinvert: ")
    assert said in lines[0]
    assert {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()} == before


def test_a_trajectory_of_another_model_is_not_fetched(here: Path, say: Say, good_trajectory: bytes):
    Path("good.trajectory.safetensors").write_bytes(good_trajectory)
    status, _, err = say("edit", "good.trajectory.safetensors", "--target", TARGET)
    assert status == 2
    assert "name it with --model" in err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), program.INTERRUPTED, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), 2, "not enough memory"),
        (OSError(28, "No space left on device", "x.png"), 2, "x.png: No space left"),
    ],
)
def test_what_goes_wrong_on_the_way(
    here: Path, say: Say, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
):
    from reinvert import verbs

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(verbs, "edit", fail)
    got, out, err = say(*edit())
    assert (got, out) == (status, "")
    assert said in err
    assert "Traceback" not in err
    assert [p.name for p in here.iterdir()] == ["cat.png"]


def test_a_bug_is_not_hidden(here: Path, monkeypatch: pytest.MonkeyPatch):
    from reinvert import verbs

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(verbs, "edit", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main([str(a) for a in edit()])
