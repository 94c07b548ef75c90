"""The studio as a person uses it: the real server and the bundled model, in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reinvert
from reinvert.cli import main

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")

STEPS = 5
PATIENCE = 40_000
"""Milliseconds; a busy machine is slow, an idle one takes a few seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running studio, and where it keeps its files."""
    folder = tmp_path_factory.mktemp("studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reinvert", "studio", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    until = time.monotonic() + 90
    while "reinvert studio is at" not in (folder / "log").read_text():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/", folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert list(folder.glob("reinvert-studio-*")) == []  # nothing is left of anybody
    log = (folder / "log").read_text()
    # Gradio itself logs a control's last word after the control was replaced; nothing of ours may fail
    assert "ui/page.py" not in log, log
    assert "ui/session.py" not in log, log


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Person:
    """Somebody with a browser of their own. Whatever it asks of other machines is noted, and refused."""

    def __init__(self, browser: Any, address: str, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        self.context.set_default_timeout(PATIENCE)
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.context.route(lambda url: not url.startswith((address, "data:", "blob:")), self._refuse)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.locator("#examples img").first.wait_for()

    def _refuse(self, route: Any) -> None:
        self.outside.append(route.request.url)
        route.abort()

    def example(self, number: int = 0) -> None:
        self.page.locator("#examples img").nth(number).click()
        self.says("Press Edit")

    def steps(self, count: int = STEPS) -> None:
        self.page.get_by_label("number input for Steps").fill(str(count))

    def fill(self, label: str, text: str) -> None:
        self.page.get_by_label(label, exact=True).fill(text)

    def edit(self) -> str:
        self.page.get_by_role("button", name="Edit", exact=True).click()
        return self.says("Done:")

    def says(self, text: str) -> str:
        place = self.page.locator("#status")
        place.get_by_text(text).first.wait_for()
        return place.inner_text()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def download(self, name: str, folder: Path) -> Path:
        self.tab("Keep")
        with self.page.expect_download() as started:
            self.page.locator("#files").get_by_role("link", name=re.compile("KB|B")).nth(name_index(self, name)).click()
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        return path


def name_index(person: Person, name: str) -> int:
    """The place of a file in the list."""
    rows = person.page.locator("#files tr.file")
    return next(i for i in range(rows.count()) if name in rows.nth(i).inner_text().replace("\n", ""))


@pytest.fixture
def people(browser: Any, server: tuple[str, Path]) -> Iterator[Any]:
    """Makes persons, and looks afterwards that nothing went wrong in their browsers."""
    there: list[Person] = []

    def person(**more: Any) -> Person:
        there.append(Person(browser, server[0], **more))
        return there[-1]

    yield person
    for one in there:
        one.context.close()
        assert one.outside == []
        assert one.errors == []


def test_first_edit_from_an_example_then_another_target_and_home_with_it(
    people: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    me = people()
    me.example()
    me.steps()
    assert "inverted and rendered" in me.edit()
    assert me.page.locator("#slider img").count() == 2
    me.fill("What it is to show", "a blue cat on grass")
    me.page.get_by_role("button", name="Change only a part").click()
    me.fill("Word of what it is to show", "cat")
    me.page.get_by_label("What it is to show", exact=True).press("Enter")  # the keyboard does it too
    assert "without inverting again" in me.says("without inverting again")
    me.tab("Difference")
    me.page.locator("#changed").get_by_text("the region that could change").wait_for()
    # why: a word's maps
    me.tab("Words")
    me.page.locator("#target-words").get_by_text("blue").click()
    me.says("where the network looks")
    # take it home: the command of the page gives the bytes of the page
    me.tab("Keep")
    command = me.page.locator("#command textarea").input_value()
    for name in ("edit.png", "edit.png.json", "grass.png"):
        me.download(name, tmp_path)
    picture = tmp_path / "a-red-cat-on-grass.edit.png"
    bytes_of_page = picture.read_bytes()
    sidecar = json.loads((tmp_path / f"{picture.name}.json").read_text())
    assert sidecar["settings"]["target"] == "a blue cat on grass"
    assert sidecar["command"] == command
    picture.unlink()
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert picture.read_bytes() == bytes_of_page
    # the history: the first edit again, with its settings
    me.page.locator("#history img").first.click()
    me.says("Edit 1")
    me.page.get_by_role("button", name="Take up").click()
    me.says("are taken up")
    assert me.page.get_by_label("What it is to show", exact=True).input_value() == "a red dog on grass"


def test_an_upload_is_edited_and_the_slider_moves(people: Any, tmp_path: Path):
    reinvert.draw("a blue boat in the sea").save(tmp_path / "my boat.png")
    (tmp_path / "no.png").write_bytes(b"GIF89a, but not really")
    me = people()
    upload = me.page.locator("#picture input[type=file]").first
    upload.set_input_files(tmp_path / "no.png")
    assert "not an image reinvert can read" in me.says("not an image") or "damaged" in me.says("damaged")
    me.page.locator("#picture input[type=file]").first.set_input_files(tmp_path / "my boat.png")
    me.says("64 x 64 pixels")
    me.fill("What it shows", "a blue boat in the sea")
    me.fill("What it is to show", "a red boat in the sea")
    me.steps()
    me.edit()
    slider = me.page.locator("#slider")
    before = slider.screenshot()
    box = slider.bounding_box()
    handle = slider.locator(".inner, [role=slider]").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    me.page.mouse.move(x, y)
    me.page.mouse.down()
    me.page.mouse.move(box["x"] + box["width"] * 0.35, y, steps=4)
    me.page.mouse.up()
    assert slider.screenshot() != before


def test_what_is_painted_may_change_and_nothing_else(people: Any, tmp_path: Path):
    me = people()
    me.example(1)
    me.steps()
    me.page.get_by_role("button", name="Change only a part").click()
    me.fill("Word of what it shows", "")
    me.fill("Word of what it is to show", "")
    me.page.get_by_label("Keep the original's pixels outside").check()
    canvas = me.page.locator("#mask canvas").first
    canvas.scroll_into_view_if_needed()
    me.page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    me.page.mouse.move(x - 20, y)
    me.page.mouse.down()
    me.page.mouse.move(x + 20, y, steps=6)
    me.page.mouse.up()
    me.page.wait_for_timeout(500)
    me.edit()
    before = np.asarray(Image.open(me.download("sea.png", tmp_path)).convert("RGB"))
    after = np.asarray(Image.open(me.download("edit.png", tmp_path)).convert("RGB"))
    mask = np.asarray(Image.open(me.download("mask.png", tmp_path)).convert("L")) > 127
    assert 0 < mask.mean() < 0.6
    assert np.array_equal(before[~mask], after[~mask])
    assert not np.array_equal(before[mask], after[mask])


def test_a_region_is_named_and_shown_and_a_caption_suggested(people: Any, tmp_path: Path):
    me = people()
    me.example()
    me.steps()
    me.page.get_by_role("button", name="Suggest what it shows").click()
    me.says("put right what is wrong")
    said = me.page.get_by_label("What it shows", exact=True).input_value()
    assert said.startswith("a red cat ")
    me.page.get_by_role("button", name="Change only a part").click()
    me.fill("Word of what it shows", "")
    me.fill("Word of what it is to show", "")
    me.fill("Region", "the boat")
    me.page.get_by_role("button", name="Show it").click()
    me.says("nothing in this picture is called")
    me.fill("Region", "the cat")
    me.page.get_by_role("button", name="Show it").click()
    me.says("only that may change")
    me.page.locator("#found-region img").wait_for()
    me.edit()
    mask = np.asarray(Image.open(me.download("mask.png", tmp_path)).convert("L")) > 127
    assert 0.05 < mask.mean() < 0.5


def test_what_will_not_work_is_told_and_a_long_edit_stops(people: Any):
    me = people()
    me.example()
    editor = me.page.locator("#editor input")
    editor.click()
    me.page.get_by_role("option", name=re.compile("^sdedit")).click()
    me.page.get_by_role("button", name="About these methods").click()
    me.page.get_by_text("Inversions that do not go with this editor").click()
    me.page.get_by_text("begins from noise of its own").first.wait_for()
    editor.click()
    me.page.get_by_role("option", name=re.compile("^blended_latent")).click()
    me.page.get_by_text("Blended Latent Diffusion").first.wait_for()
    me.page.get_by_role("button", name="Change only a part").click()
    me.fill("Word of what it shows", "")
    me.fill("Word of what it is to show", "")
    me.page.get_by_role("button", name="Edit", exact=True).click()
    assert "needs a mask" in me.says("needs a mask")
    editor.click()
    me.page.get_by_role("option", name=re.compile("^p2p(:|$)")).click()
    me.page.get_by_text("Prompt-to-Prompt").first.wait_for()
    me.steps(100)
    me.page.get_by_role("button", name="Edit", exact=True).click()
    me.says("inverting")
    me.page.get_by_role("button", name="Stop").click()
    me.says("Stopped")
    me.steps()
    me.page.get_by_label("number input for cross (p2p)").fill("0.2")
    me.page.get_by_label("number input for cross (p2p)").press("Tab")
    me.page.get_by_role("button", name="All settings").click()
    boost = me.page.get_by_label("boost (p2p)")
    boost.fill("dog")
    me.says("takes WORD=VALUE")
    boost.fill("dog=2")
    me.edit()
    me.tab("Keep")
    assert "--p2p.cross 0.2 --p2p.boost dog=2" in me.page.locator("#command textarea").input_value()


def test_two_people_wait_for_each_other_and_see_only_their_own(people: Any, server: tuple[str, Path]):
    mine, other = people(), people()
    mine.example()
    mine.steps(30)
    other.example(1)
    other.steps()
    mine.page.get_by_role("button", name="Edit", exact=True).click()
    mine.says("inverting")
    other.page.get_by_role("button", name="Edit", exact=True).click()
    assert "1 person is served first" in other.says("served first")
    other.says("Done:")
    mine.says("Done:")
    for one, title in ((mine, "dog"), (other, "fish")):
        one.tab("Keep")
        assert one.page.locator("#history img").count() == 1
        assert title in one.page.locator("#command textarea").input_value()
    (house,) = server[1].glob("reinvert-studio-*")
    files = set(house.glob("*/edit-*/*.edit.png"))
    assert {path.name for path in files} >= {"a-red-cat-on-grass.edit.png", "a-yellow-fish-in-the-sea.edit.png"}
    other.context.close()
    until = time.monotonic() + 30
    while any("fish" in path.name for path in house.glob("*/edit-*/*.edit.png")):
        assert time.monotonic() < until, "the files of a person who left are still there"
        time.sleep(0.2)
    mine.context.close()


def test_it_is_readable_on_a_phone_in_the_dark(people: Any):
    me = people(width=390, scheme="dark")
    assert me.page.evaluate("document.documentElement.scrollWidth") <= 390
    me.example()
    me.steps()
    me.edit()
    for tab in ("Difference", "Words"):
        if me.page.get_by_role("tab", name=tab).is_visible():
            me.tab(tab)
    assert me.page.evaluate("document.documentElement.scrollWidth") <= 390
    unlabelled = me.page.evaluate(
        """[...document.querySelectorAll('input, textarea, button')].filter(e => e.offsetParent !== null
           && !e.labels?.length && !e.getAttribute('aria-label') && !e.title && !e.innerText.trim()
           && e.type !== 'file').map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unlabelled == []
