"""`reinvert tune`: what is searched, that a search goes on where it was, and what it writes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from bench_data import P2P, write_recipe

from reinvert import recipes
from reinvert.bench import tuning
from reinvert.bench.data import open_data
from reinvert.bench.run import runner
from reinvert.bench.tuning import Range, Search, Trial, front, read_range, usual_ranges, with_values
from reinvert.cli import main
from reinvert.errors import ReinvertError

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def recipe(tiny, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """A recipe on the tiny model, which is not loaded again for each trial; its file."""
    load = runner.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load", lambda name, *more: tiny if name == str(tiny_folder) else load(name, *more))
        yield write_recipe(tmp_path_factory.mktemp("tune"), "p2p", tiny_folder, P2P)


def search(recipe: str, folder: Path, trials: int, **more) -> Search:
    ranges = (Range("steps", 1.0, 3.0, True), Range("p2p.cross", 0.0, 1.0))
    given = {"limit": 2, "batch": 2, "device": "cpu", **more}
    return Search(recipes.find(recipe), open_data("picturebook:v1?size=32"), folder, ranges, trials, **given)


# --- what is searched ----------------------------------------------------------------------------------------------


def test_ranges_are_read() -> None:
    assert read_range("steps=10:50") == Range("steps", 10.0, 50.0, True)
    assert read_range("guidance=1:8") == Range("guidance", 1.0, 8.0, False)
    assert read_range("p2p.cross=0.2:1") == Range("p2p.cross", 0.2, 1.0, False)
    assert read_range("p2p.kind=refine|replace") == Range("p2p.kind", choices=("refine", "replace"))
    for text in ("steps", "steps=", "steps=5", "steps=9:3", "a b=1:2", "p2p.kind=refine", "steps=1:2:3"):
        with pytest.raises(ReinvertError):
            read_range(text)


def test_what_is_searched_where_nothing_is_named() -> None:
    names = [one.name for one in usual_ranges(recipes.find("directinversion+p2p"))]
    assert names[:2] == ["steps", "guidance"]
    assert "p2p.self_attention" in names


def test_values_reach_the_recipe() -> None:
    base = recipes.find("directinversion+p2p")
    made = with_values(base, {"steps": 7, "guidance": 2.5, "p2p.cross": 0.9})
    assert (made.steps, made.guidance, made.editors["p2p"]["cross"]) == (7, 2.5, 0.9)
    assert base.editors["p2p"]["cross"] == 0.4
    for ranges in ((Range("p3p.cross", 0.0, 1.0),), (Range("p2p.crosss", 0.0, 1.0),)):
        with pytest.raises(ReinvertError):
            tuning.check_ranges(base, ranges)


def test_a_recipe_file_reads_back(tmp_path: Path) -> None:
    base = recipes.find("null-text-inversion+p2p")
    (tmp_path / "best.toml").write_text(tuning.as_toml(base, 'It\'s "tuned".'))
    again = recipes.find(str(tmp_path / "best.toml"))
    assert replace(again, name=base.name, about=base.about, published=base.published) == base
    assert again.about == 'It\'s "tuned".'


def test_the_front() -> None:
    made = [
        Trial(i, {}, success, 1.0, 1.0, cost)
        for i, (success, cost) in enumerate(((0.5, 90.0), (0.5, 60.0), (0.4, 70.0), (0.8, 80.0)))
    ]
    assert [trial.number for trial in front([*made, Trial(9, {}, cut="too much")])] == [1, 3]


# --- a search ------------------------------------------------------------------------------------------------------


def test_a_search_goes_on_where_it_was(recipe: str, tmp_path: Path) -> None:
    whole = list(search(recipe, tmp_path / "whole", 3).run())
    assert [trial.number for trial in whole] == [0, 1, 2]
    assert whole[0].values == {"steps": 2, "p2p.cross": 0.4}  # the recipe as it is
    list(search(recipe, tmp_path / "parts", 1).run())
    rest = list(search(recipe, tmp_path / "parts", 3).run())
    assert [trial.number for trial in rest] == [1, 2]
    assert (
        search(recipe, tmp_path / "parts", 3).found() == search(recipe, tmp_path / "whole", 3).found() == tuple(whole)
    )
    assert not list(search(recipe, tmp_path / "whole", 3).run())
    with pytest.raises(ReinvertError, match="another search"):
        list(search(recipe, tmp_path / "whole", 3, seed=1).run())


def test_what_costs_too_much_is_cut_off(recipe: str, tmp_path: Path) -> None:
    made = list(search(recipe, tmp_path / "out", 1, forwards=1).run())
    assert made[0].success is None
    assert "forwards a picture" in made[0].cut
    assert front(made) == ()


def test_the_command_writes_recipe_and_report(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    more = ["--data", "picturebook:v1?size=32", "--limit", "2", "--device", "cpu", "--search", "steps=1:2"]
    assert main(["tune", recipe, "-o", str(out), "--trials", "2", *more]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(out / name) for name in ("best.toml", "front.svg", "report.md")]
    assert "trial 1: success" in told.err
    assert tomllib.loads((out / "best.toml").read_text())["steps"] in (1, 2)
    report = (out / "report.md").read_text()
    assert "2 trials on 2 cases of picturebook:v1?size=32" in report
    assert "steps=1:2" in report
    assert (out / "front.svg").read_text().count("<circle") == 2
    assert main(["tune", recipe, "-o", str(tmp_path / "no"), "--forwards", "1", "--trials", "1", *more]) == 2
    assert "within the budget" in capsys.readouterr().err


def test_a_share_is_no_whole_number(recipe: str, tmp_path: Path) -> None:
    ranges = tuple(map(read_range, ("steps=1:3", "p2p.cross=0:1")))
    made = replace(search(recipe, tmp_path, 1), ranges=ranges)
    assert [one.whole for one in made.ranges] == [True, False]


def test_data_that_does_not_know_its_answer_is_refused(recipe: str, tmp_path: Path) -> None:
    data = open_data("picturebook:v1?size=32")
    unknown = replace(data, cases=tuple(replace(case, open_attributes=None) for case in data.cases[:2]))
    with pytest.raises(ReinvertError, match="picturebook:v1"):
        Search(recipes.find(recipe), unknown, tmp_path, ())
