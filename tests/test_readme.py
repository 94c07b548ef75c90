"""The README is run: its Python example and its offline commands, with the bundled model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from reinvert import cli, registry
from reinvert.backbones.loading import families

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def offline_commands() -> list[str]:
    """The commands of the README that need neither a checkpoint nor a photo, nor a benchmark's data."""
    return [line for line in commands(README) if "--model" not in line and not line.startswith("reinvert bench ")]


def commands(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("reinvert ")]


@pytest.mark.slow
@pytest.mark.usefixtures("_in_tmp")
def test_the_rehearsal_of_the_benchmark_runs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/reproduce-the-paper.md has it, on fewer cases and steps."""
    text = (Path(__file__).parent.parent / "docs" / "reproduce-the-paper.md").read_text()
    rehearsal = text[text.index("## 0.") : text.index("## 1.")]
    for many, few in (("--count 20", "--count 10"), ("--steps 20", "--steps 2 --limit 4")):
        assert many in rehearsal
        rehearsal = rehearsal.replace(many, few)
    lines = commands(rehearsal)
    assert [shlex.split(line)[2] for line in lines] == ["make", "check", "run", "score", "report"]
    for line in lines:
        assert cli.main(shlex.split(line)[1:]) == 0, line
    assert {path.suffix for path in Path("rehearsal/report").iterdir()} == {".html", ".csv", ".tex"}
    assert "directinversion+" in capsys.readouterr().out


@pytest.mark.usefixtures("_in_tmp")
def test_the_offline_commands_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    commands = offline_commands()
    assert [shlex.split(c)[1] for c in commands] == ["draw", "edit", "edit"]
    for command in commands:
        edits = shlex.split(command)[1] == "edit"
        assert cli.main([*shlex.split(command)[1:], *(["--steps", "10"] if edits else [])]) == 0, command
    assert Image.open("dog.png").size == Image.open("cat.png").size
    assert Path("dog.png.json").exists()
    assert "dog" in capsys.readouterr().out


@pytest.mark.usefixtures("_in_tmp")
def test_the_python_example_runs() -> None:
    assert cli.main(["draw", "a red cat on grass", "-o", "cat.png"]) == 0
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # fewer steps: what the edit at 50 costs is tested in test_loop
    for call, shorter in (("2.0},\n)", "2.0}, steps=10)"), ('on grass")  #', 'on grass", steps=10)  #')):
        assert example.count(call) == 1
        example = example.replace(call, shorter)
    names: dict[str, object] = {}
    exec(example, names)
    result = names["result"]
    assert Image.open("dog.png").size == (64, 64)
    assert result.forwards <= 40  # type: ignore[attr-defined]
    assert isinstance(names["fish"], Image.Image)


def test_every_method_is_in_the_tables() -> None:
    for group in ("inversions", "editors"):
        for name in registry.names(group):
            assert f"| `{name}` |" in README, f"{name} is missing from the README's table"


def test_the_tables_of_methods_say_which_families_they_run_on() -> None:
    """Every inversion and editor has a line, and on the tiny model of each family the code says the same."""
    names = {"stable_diffusion": "SD", "stable_diffusion_xl": "SDXL", "stable_diffusion_3": "SD3", "flux": "FLUX"}
    tiny = {short: families()[name].tiny() for name, short in names.items()}
    for group in ("inversions", "editors"):
        for name in registry.names(group):
            (line,) = re.findall(rf"^\| `{name}` \| (.+?) \|", README, flags=re.M)
            made, masked = registry.make(group, name), {"masked": True} if group == "editors" else {}
            runs = [short for short, model in tiny.items() if made.lacks(model, **masked) is None]
            assert line == ("all" if len(runs) == len(tiny) else ", ".join(runs)), name
