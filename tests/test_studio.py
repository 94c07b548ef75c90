"""The studio without its page: sessions, the line, the forms, the files; the same edit as a command and as Python."""

from __future__ import annotations

import gc
import json
import math
import os
import shlex
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import hostile_pictures
from PIL import Image

from reinvert import pairs, registry
from reinvert.cli import main
from reinvert.errors import ReinvertError
from reinvert.level import Level, Moment, Split
from reinvert.script import Script
from reinvert.ui import pictures, texts
from reinvert.ui.forms import fields_of
from reinvert.ui.house import PREFIX, House, sweep
from reinvert.ui.jobs import Done, Line, Stopped, Tell, Waiting, Working, serve
from reinvert.ui.server import Address, read_auth
from reinvert.ui.session import Edit, Request, Session, estimate, sheet, swept
from reinvert.ui.shelf import Shelf
from reinvert.values import number

CAT, DOG = "a red cat on grass", "a red dog on grass"
QUICK = Request(CAT, DOG, steps=3)


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(["picturebook"], "cpu")


@pytest.fixture
def session(shelf: Shelf, tmp_path: Path) -> Session:
    made = Session(shelf, Line(), tmp_path / "session")
    made.draw(CAT)
    return made


def last(updates: Iterator) -> Edit:
    *_, done = updates
    assert isinstance(done, Done)
    return done.result


# --- edits -----------------------------------------------------------------------------------------------------------


def test_the_picture_is_inverted_once_and_the_edit_says_which_of_the_two_it_did(session: Session):
    first = last(session.edit(QUICK))
    assert first.inverted
    assert "inverted and rendered" in first.summary
    again = last(session.edit(Request(CAT, "a blue cat on grass", steps=3, editors=("p2p", "proximal"))))
    assert not again.inverted
    assert "without inverting again" in again.summary
    assert again.result.forwards < first.result.forwards
    assert last(session.edit(Request(CAT, DOG, steps=3, seed=1))).inverted  # what the inversion itself is made of
    session.draw(CAT, seed=2)
    assert last(session.edit(QUICK)).inverted  # another picture
    assert [edit.number for edit in session.history] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("request_", "masked"),
    [
        (
            Request(CAT, DOG, steps=3, blend=("cat", "dog"), settings={"p2p": {"cross": 0.1, "boost": {"dog": 2.5}}}),
            False,
        ),
        (Request(CAT, DOG, steps=3, editors=("p2p", "proximal"), masked=True, paste_back=True), True),
    ],
    ids=["words", "mask"],
)
def test_the_command_line_and_the_python_of_an_edit_give_its_bytes(
    session: Session, request_: Request, masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if masked:
        session.set_mask(Image.fromarray(np.pad(np.full((30, 30), 255, np.uint8), ((20, 14), (17, 17)))))
    edit = last(session.edit(request_))
    picture, sidecar, trajectory, source, *_ = edit.files
    assert trajectory.is_file()
    assert sidecar.is_file()
    here = tmp_path / "here"
    for name in ("command", "python"):
        (here / name).mkdir(parents=True)
        monkeypatch.chdir(here / name)
        for path in edit.files:
            if path not in (picture, sidecar, trajectory):
                Path(path.name).write_bytes(path.read_bytes())
        if name == "command":
            assert main(shlex.split(edit.script.command())[1:]) == 0
        else:
            exec(edit.script.python(), {})
        assert Path(picture.name).read_bytes() == picture.read_bytes(), name
    assert source.is_file()


def test_pixels_outside_a_mask_are_the_originals(session: Session):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))
    session.open(photo, "wide")
    mask = np.zeros((96, 160), np.uint8)
    mask[40:60, 70:100] = 255
    session.set_mask(Image.fromarray(mask))
    asked = Request(CAT, DOG, steps=3, masked=True, paste_back=True, fit="keep", force=True)
    edit = last(session.edit(asked))
    assert edit.picture.size == (160, 96)
    before, after = np.asarray(photo), np.asarray(edit.picture)
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert not np.array_equal(before[mask > 0], after[mask > 0])
    assert edit.before.size == edit.picture.size
    region, origin = edit.region()
    assert 0 < region.mean() < 0.2
    assert "your mask" in origin


def test_a_region_is_named_found_once_and_told_with_the_mask(session: Session, monkeypatch: pytest.MonkeyPatch):
    assert session.caption("picturebook").startswith("a red cat ")
    found = session.region("the cat", "picturebook")
    monkeypatch.setattr("reinvert.ui.session.regions.find_region", None)  # it is not looked for again
    session.set_mask(None, "the cat")
    assert session.mask is found.mask
    edit = last(session.edit(Request(CAT, DOG, steps=2, masked=True)))
    told = json.loads(edit.files[1].read_text())["mask"]
    assert told["file"].endswith(".mask.png")
    assert (told["region"], told["model"]) == ("the cat", "picturebook")
    with pytest.raises(ReinvertError, match="a region is painted and another one named"):
        session.set_mask(found.mask, "the cat")
    session.set_mask(None, " ")
    assert session.mask is None


def test_a_drawn_scene_has_its_true_edit(session: Session):
    edit = last(session.edit(QUICK))
    session.draw(DOG)
    assert session.given is not None
    assert np.array_equal(np.asarray(edit.truth), np.asarray(session.given.picture))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request("", DOG), "say what the picture shows"),
        (Request(CAT, " "), "say what the picture is to show"),
        (Request(CAT, "a red dragon on grass"), "without the word 'dragon'"),
        (Request(CAT, DOG, blend=("horse", "dog")), "'horse' does not occur"),
        (Request(CAT, DOG, editors=("blended_latent",)), "needs a mask"),
        (Request(CAT, DOG, inversion="ddim", editors=("sdedit",)), "use it with inversion none"),
        (Request(CAT, DOG, model="somebody/else"), "choose from picturebook"),
        (Request(CAT, DOG, masked=True), "paint the region"),
        (Request(CAT, DOG, settings={"p2p": {"cross": 7}}), "share of the run"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_will_not_work_is_said_in_one_sentence_before_anything_is_computed(
    session: Session, shelf: Shelf, request_: Request, told: str
):
    model = shelf.get("picturebook")
    before = model.tally.copy()
    with pytest.raises(ReinvertError, match="(?i)" + told):
        last(session.edit(request_))
    assert model.tally == before
    assert session.history == []


def test_a_photograph_is_refused_by_picturebook(session: Session):
    session.open(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    with pytest.raises(ReinvertError, match="does not look like picturebook's drawn world"):
        last(session.edit(QUICK))


def test_without_a_picture_there_is_nothing_to_edit(shelf: Shelf, tmp_path: Path):
    with pytest.raises(ReinvertError, match="choose a picture first"):
        Session(shelf, Line(), tmp_path).edit(QUICK)


@pytest.mark.parametrize(("stage", "rows"), [("inverting", 1), ("editing", 4)])
def test_stop_stops_within_a_step(session: Session, stage: str, rows: int):
    tally = session.shelf.get("picturebook").tally
    at_stop: list[int] = []

    def look() -> None:
        for update in session.edit(Request(CAT, DOG, steps=40)):
            if isinstance(update, Working) and update.stage == stage and update.done and not at_stop:
                session.stop()
                at_stop.append(tally.forwards)

    with pytest.raises(Stopped):
        look()
    assert (
        tally.forwards - at_stop[0] <= rows
    )  # the step that was in progress: source and target, with and without words
    assert session.history == []
    assert last(session.edit(QUICK)).number == 1


def test_not_every_step_is_shown_but_the_end_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reinvert.ui.jobs.PACE", 1e9)

    def work(tell: Tell) -> str:
        preview = Image.new("RGB", (8, 8))
        for step in range(1, 50):
            tell(Working("counting", step, 50, preview=preview if step == 7 else None))
            if step == 1:
                shown.wait(10)
        return "over"

    shown = threading.Event()
    updates = serve(Line(), work, threading.Event())
    first = next(updates)
    shown.set()
    assert isinstance(first, Working)
    assert first.done == 1
    assert list(updates) == [Done("over")]


def test_progress_has_the_time_left_and_a_growing_preview(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reinvert.ui.session.BETWEEN", 0.0)
    monkeypatch.setattr("reinvert.ui.session.COST", 1e9)
    seen = [u for u in session.edit(Request(CAT, DOG, steps=8)) if isinstance(u, Working)]
    assert {u.stage for u in seen} >= {"inverting", "editing"}
    assert any(u.left is not None for u in seen)
    previews = [u.preview for u in seen if u.preview is not None]
    assert previews
    assert previews[0].size == (64, 64)


def test_the_preview_is_what_the_step_took_for_clean():
    level, following = Level(0.6, 0.8), Level(0.8, 0.6)
    clean, noise = torch.rand(2, 1, 4, 8, 8, dtype=torch.float64)
    split = Split(clean, noise)
    found = estimate(split.at(level), split.at(following), Moment(0, 2, 9, 5, level, following))
    assert (found - clean).abs().max() < 1e-12


def test_several_methods_targets_or_values_make_one_sheet(session: Session):
    methods = session.variants(QUICK, "methods", ["direct + p2p", "none + sdedit"], "", "", "")
    targets = session.variants(QUICK, "targets", [], f"{DOG}\n\na blue cat on grass\n", "", "")
    values = session.variants(QUICK, "one setting", [], "", "p2p.cross", "0, 0.4,0.8")
    assert [title for title, _ in targets] == [DOG, "a blue cat on grass"]
    assert [one.settings["p2p"]["cross"] for _, one in values] == [0, 0.4, 0.8]
    edits = last(session.compare([one for _, one in methods]))
    assert [edit.request.title for edit in edits] == ["direct + p2p", "none + sdedit"]
    assert sheet(edits, [title for title, _ in methods]).width > 3 * 256
    for wrong in (("targets", "", ""), ("one setting", "guidance", "much"), ("one setting", "steps", "2.5")):
        with pytest.raises(ReinvertError):
            session.variants(QUICK, wrong[0], [], "", *wrong[1:])
    assert {"guidance", "p2p.cross", "direct.strength"} <= set(swept("direct", ["p2p"]))


def test_an_older_edit_is_taken_up_with_its_settings_picture_and_region(session: Session):
    session.set_mask(None, "the cat")
    settings = {"p2p": {"cross": 0.7}}
    asked = Request(CAT, DOG, steps=2, settings=settings, masked=True, region="the cat")
    old, region = last(session.edit(asked)), session.mask
    session.draw("a blue boat in the sea")
    session.settings = {"p2p": {"cross": 0.9}}
    assert session.take_up(old) == asked
    assert session.settings == settings
    assert session.given is old.given
    assert session.mask is region
    again = last(session.edit(asked))
    assert not again.inverted
    assert again.path.read_bytes() == old.path.read_bytes()
    assert json.loads(again.files[1].read_text())["mask"]["region"] == "the cat"


def test_one_model_is_held_and_an_edit_of_another_is_looked_at_without_it(tmp_path: Path):
    shelf = Shelf(["picturebook", "picturebook-flow"], "cpu")
    session = Session(shelf, Line(), tmp_path / "session")
    session.draw(CAT)
    edit = last(session.edit(QUICK))
    first = weakref.ref(shelf.get("picturebook"))
    told = [u.stage for u in session.load("picturebook-flow") if isinstance(u, Working)]
    assert told == ["loading picturebook-flow"]
    gc.collect()
    assert first() is None
    assert "flowedit" in shelf.choices("picturebook-flow").all_editors()
    assert "flowedit" not in shelf.choices("picturebook").all_editors()
    assert edit.links
    assert session.take_up(edit).model == "picturebook"
    assert shelf.is_held("picturebook-flow")
    assert last(session.words(edit)).words[1] == tuple(DOG.split())
    assert shelf.is_held("picturebook")


def test_words_have_maps_where_the_network_looks(session: Session):
    edit = last(session.edit(Request(CAT, DOG, steps=4)))
    picture = np.asarray(edit.result.image).copy()
    maps = last(session.words(edit))
    assert maps.words == (tuple(CAT.split()), tuple(DOG.split()))
    assert maps.maps.shape == (4, 2, 5, 16, 16)
    assert float(maps.maps.min()) >= 0
    assert float(maps.maps[:, 0].sum(1).max()) <= 1 + 1e-5  # shares of one attention
    assert np.array_equal(picture, np.asarray(edit.result.image))
    # the source's cat stands in the middle of the picture, and "grass" at its foot
    cat, grass = maps.of(0, 2), maps.of(0, 4)
    assert float(cat[4:12, 4:12].mean()) > float(cat[:3].mean())
    assert float(grass[12:].mean()) > float(grass[:4].mean())
    assert session.partner(edit, 2, of_source=True) == 2  # cat -> dog
    assert edit.special == 1
    table = texts.alignment(edit.links, edit.special)
    assert ">dog<" in table
    assert table.count("the source's attention") == 4


# --- the line, the shelf, the forms ----------------------------------------------------------------------------------


def test_people_are_served_one_after_another_and_see_their_place():
    line, going, order = Line(), threading.Event(), list[str]()

    def slow(tell):
        going.wait(10)
        order.append("first")

    first = serve(line, slow, threading.Event())
    told: list[object] = []

    def wait() -> None:
        told.extend(serve(line, lambda tell: order.append("second"), threading.Event()))

    waiter = threading.Thread(target=lambda: list(first))
    waiter.start()
    while len(line) < 1:
        pass
    other = threading.Thread(target=wait)
    other.start()
    while not told:
        pass
    assert told == [Waiting(1)]
    going.set()
    other.join(10)
    waiter.join(10)
    assert order == ["first", "second"]
    assert isinstance(told[-1], Done)
    assert len(line) == 0


def test_who_leaves_stops_the_work_before_the_next_begins():
    line, ended = Line(), threading.Event()

    def work(tell):
        try:
            for number in range(10_000):
                tell(Working("counting", number, 10_000))
                threading.Event().wait(0.001)
        finally:
            ended.set()

    updates = serve(line, work, threading.Event())
    next(updates)
    updates.close()
    assert ended.is_set()
    assert len(line) == 0


def test_only_legal_pairs_are_offered_and_the_others_say_why(shelf: Shelf):
    choices = shelf.choices("picturebook")
    assert "sdedit" in choices.all_editors()
    assert choices.inversions_for("sdedit") == ("none",)
    assert "begins from noise of its own" in choices.refused_for("sdedit")["direct"]
    assert "flowedit" not in choices.all_editors()  # picturebook is no flow
    joined = choices.joinable("direct", "p2p")
    assert "proximal" in joined
    assert {"sdedit", "p2p"} & set(joined) == set()
    model, direct, p2p = (
        shelf.get("picturebook"),
        registry.make("inversions", "direct"),
        registry.make("editors", "p2p"),
    )
    for name in registry.names("editors"):  # what is told without the model is what the model tells
        why = pairs.why_not(direct, [p2p, registry.make("editors", name)], model=model)
        assert (name in joined) == (why is None and name != "p2p"), name
    with pytest.raises(ReinvertError, match="there is no model"):
        shelf.get("/etc")


@pytest.mark.parametrize("group", ["inversions", "editors"])
def test_every_field_of_every_method_is_a_control_that_reads_its_own_default(group: registry.Group):
    for name in registry.names(group):
        for field in fields_of(group, name):
            assert field.read(field.shown) == field.default, field
            assert field.argument.help
            assert field.look in ("toggle", "choice", "whole", "number", "share", "text")


def test_a_control_takes_what_the_flag_takes(session: Session):
    boost = next(f for f in fields_of("editors", "p2p") if f.name == "boost")
    cross = next(f for f in fields_of("editors", "p2p") if f.name == "cross")
    session.set(boost, "dog=2.5 red=0.5")
    assert session.value_of(boost) == {"dog": 2.5, "red": 0.5}
    session.set(cross, 0.7)
    session.set(boost, "")
    assert session.settings == {"p2p": {"cross": 0.7}}
    inner = next(f for f in fields_of("inversions", "null_text") if f.argument.type is int)
    for given in (3, 3.0, "3"):  # as the page's and ComfyUI's controls give it
        assert inner.read(given) == 3
    negative = next(f for f in fields_of("editors", "pnp") if f.name == "negative")
    assert negative.read("") == ""  # a text may be emptied, as on the command line
    assert inner.read("") == inner.read(None) == inner.default
    for field, wrong in (
        (boost, "dog"),
        (boost, "'dog=2"),
        (cross, "1.5"),
        (cross, "x"),
        (inner, 2.5),
        (inner, math.inf),
    ):
        with pytest.raises(ReinvertError, match=field.name):
            session.set(field, wrong)
    encoder = next(f for f in fields_of("inversions", "style_diffusion") if f.name == "encoder")
    with pytest.raises(ReinvertError, match="the page takes none"):
        session.set(encoder, "somebody/network")


# --- files and the server --------------------------------------------------------------------------------------------


def test_a_hundred_hostile_uploads_are_one_sentence_each(session: Session, tmp_path: Path):
    kept = session.given
    count = 0
    for path in hostile_pictures(tmp_path, 100):
        with pytest.raises(ReinvertError) as told:
            session.open(path, path.stem)
        assert str(told.value).isprintable()
        assert len(str(told.value)) < 300
        count += 1
    assert count == 100
    assert session.given is kept
    assert last(session.edit(QUICK)).inverted


def test_a_sessions_files_end_with_it_and_nobody_reaches_others():
    house = House(["picturebook"])
    mine, other = house.session("me"), house.session("other")
    assert mine is house.session("me")
    assert mine.folder != other.folder
    upload = house.uploads / "abc" / "cat.png"
    upload.parent.mkdir()
    Image.new("RGB", (8, 8)).save(upload)
    for name in ("me", "other"):
        assert house.uploaded({"path": str(upload), "orig_name": "my cat.png"}, name) == (upload, "my cat")
    for wrong in ({"path": "/etc/passwd"}, {"path": str(house.uploads / ".." / "x")}, None, {"path": str(mine.folder)}):
        with pytest.raises(ReinvertError, match="no file that was uploaded"):
            house.uploaded(wrong, "me")
    shown = Path(house.show("me", Image.new("RGB", (8, 8))))
    assert shown.is_relative_to(mine.folder)
    house.leave("me")
    assert not mine.folder.exists()
    assert upload.exists()  # the other uploaded it too
    house.leave("other")
    assert not upload.exists()
    house.close()
    assert not house.folder.exists()


def test_the_folder_of_a_server_that_was_killed_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, living, other = (tmp_path / f"{PREFIX}{n}-x" for n in (2**22 + 1, os.getpid(), "name"))
    for folder in (dead, living, other):
        folder.mkdir()
    sweep()
    assert not dead.exists()
    assert living.exists()
    assert other.exists()


def test_a_public_host_needs_a_password():
    for host in ("127.0.0.1", "localhost", "::1"):
        Address(host)
    for host in ("0.0.0.0", "192.168.1.5", "example.org"):
        with pytest.raises(ReinvertError, match="give --auth USER:PASSWORD"):
            Address(host)
        Address(host, auth=read_auth("me:secret"))
    for wrong in ("me", "me:", ":secret"):
        with pytest.raises(ReinvertError, match="USER:PASSWORD"):
            read_auth(wrong)


def test_the_command_line_refuses_a_public_host_and_a_model_that_is_none(capsys: pytest.CaptureFixture[str]):
    assert main(["studio", "--host", "0.0.0.0"]) == 2
    assert "--auth" in capsys.readouterr().err
    assert main(["studio", "--model", "nothing"]) == 2
    assert "there is no model 'nothing'" in capsys.readouterr().err


def test_a_script_spells_values_that_a_shell_or_argparse_would_misread():
    settings = {"fireflow": {"first_layer": -3}, "p2p": {"cross": {"default_": 0.4, "red dog": (0.1, 0.9)}}}
    script = Script(
        "it's", "-b", picture="-a b.png", output="o.png", inversion="fireflow", settings=settings, guidance=1 / 3
    )
    words = shlex.split(script.command())
    assert words[2] == "./-a b.png"
    assert "--target=-b" in words
    assert "--fireflow.first-layer=-3" in words
    assert words[words.index("--p2p.cross") + 1 :][:2] == ["0.4", "red dog=0.1:0.9"]
    assert number(words[words.index("--guidance") + 1]) == 1 / 3
    compile(script.python(), "script", "exec")


def test_pictures_that_explain():
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    heat, most = pictures.difference(black, white)
    assert most == 255
    assert heat.getpixel((0, 0)) == tuple(pictures.HEAT[-1].astype(int))
    region = np.zeros((8, 8), bool)
    region[2:6, 2:6] = True
    laid = pictures.overlay(white, region)
    assert laid.getpixel((0, 0)) == (89, 89, 89)
    assert laid.getpixel((2, 2)) == pictures.EDGE
    assert laid.getpixel((3, 3)) == (255, 255, 255)
    assert pictures.enlarged(black).size == (512, 512)
    assert pictures.over(black, np.eye(8)).size == (8, 8)


def test_what_a_person_typed_is_text_on_the_page():
    for made in (texts.error("<script>"), texts.note("<b>"), texts.done("<i>", ["<u>"]), texts.refused({"<a>": "<b>"})):
        assert "<script>" not in made
        assert "<b>" not in made.replace("<li><b>", "")
        assert "<u>" not in made
