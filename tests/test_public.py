"""What `import reinvert` gives: the public names, how values show themselves, warnings, and a page of help."""

from __future__ import annotations

import pydoc
import subprocess
import sys
import warnings
from io import BytesIO

import pytest
from conftest import SOURCE, TARGET
from PIL import Image

import reinvert
from reinvert.cli import main
from reinvert.errors import ReinvertError, ReinvertWarning, warn


def test_the_public_names_are_there_and_described():
    for name in ("load", "edit", "invert", "reconstruct", "instruct", "draw", "methods", "Progress", "Result"):
        assert name in reinvert.__all__
        assert getattr(reinvert, name).__doc__
    assert set(reinvert.__all__) <= set(dir(reinvert))


def test_help_reads_like_a_page():
    page = pydoc.render_doc(reinvert, renderer=pydoc.plaintext)
    for line in ("model  = reinvert.load(", "result = reinvert.edit(", "draw(caption: ", "edit(", "class Trajectory"):
        assert line in page
    assert page.index("DESCRIPTION") < page.index("reinvert.load(") < page.index("PACKAGE CONTENTS")


def test_methods_imports_no_method():
    script = (
        "import sys, reinvert; print(len(reinvert.methods()), 'torch' in sys.modules, reinvert.methods('editors')[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, torch_there, first = done.stdout.split(" ", 2)
    assert int(count) == sum(len(reinvert.methods(group)) for group in ("inversions", "editors", "trained"))
    assert torch_there == "False"
    assert first.startswith("Method(blended_latent, editors, ")
    assert len(first.strip()) < 120
    with pytest.raises(ReinvertError, match="there is no group 'editor'; the groups are inversions, editors, trained"):
        reinvert.methods("editor")


def test_draw_is_what_the_command_draws(tmp_path):
    assert main(["draw", "a red cat on grass", "--seed", "3", "-o", str(tmp_path / "a.png")]) == 0
    drawn = reinvert.draw("a red cat on grass", seed=3)
    assert drawn.size == (64, 64)
    with Image.open(tmp_path / "a.png") as file:
        assert drawn.tobytes() == file.tobytes()
    assert reinvert.draw("a red cat on grass", size=32).size == (32, 32)
    for wrong in ({"size": 15}, {"size": 5000}, {"seed": -1}, {"caption": "a red dgo"}):
        with pytest.raises(ReinvertError):
            reinvert.draw(**{"caption": "a red cat", **wrong})


def test_values_show_themselves_in_a_line(tiny, picture):
    result = reinvert.edit(tiny, picture, source=SOURCE, target=[TARGET, SOURCE], steps=2, editor="p2p+proximal")
    path = reinvert.invert(tiny, picture, SOURCE, steps=2)
    assert repr(result).startswith(f"Result('{TARGET}' and 1 more, 32x32, direct + p2p + proximal, ")
    assert repr(path) == f"Trajectory('{SOURCE}', direct, 2 steps, latents 3x16x16)"
    assert repr(tiny) == "StableDiffusion('tiny-eps', 32x32, cpu, float32)"
    for value in (result, path, tiny, reinvert.reconstruct(tiny, path)):
        assert len(repr(value)) < 160
        assert "\n" not in repr(value)


def test_values_show_themselves_in_a_notebook(tiny, picture):
    result = reinvert.edit(tiny, picture, source=SOURCE, target=[TARGET, SOURCE], steps=2)
    wide = Image.open(BytesIO(result._repr_png_()))
    alone = Image.open(BytesIO(reinvert.reconstruct(tiny, picture, SOURCE, steps=2)._repr_png_()))
    assert wide.width > 2.5 * alone.width
    nasty = reinvert.invert(tiny, picture, "<script>alert(1)</script>", steps=2, inversion="ddim")
    for html in (nasty._repr_html_(), tiny._repr_html_()):
        assert html.startswith("<table>")
        assert "<script>" not in html
    assert "ddim" in nasty._repr_html_()


def test_a_warning_has_one_line_a_name_and_the_users_own_place():
    # In a process of its own: here wrappers that check types stand between reinvert and its caller.
    script = "from reinvert import errors\n\ndef mine():\n    errors.warn('look\\nhere')\n\nmine()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[0] == "<string>:4: ReinvertWarning: look here"
    with warnings.catch_warnings():
        warnings.simplefilter("error", reinvert.ReinvertWarning)
        with pytest.raises(ReinvertWarning):
            warn("look")


def test_the_command_line_says_warnings_in_one_line(monkeypatch, capsys):
    def run(_):
        warn("the picture \x1b[2J is small")
        warnings.warn("of a library", stacklevel=1)
        return 0

    monkeypatch.setattr("reinvert.cli.draw.run", run)
    before = warnings.showwarning
    assert main(["draw", "a cat"]) == 0
    assert capsys.readouterr().err == "reinvert: the picture \\x1b[2J is small\n"
    assert warnings.showwarning is before
