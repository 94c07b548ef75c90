"""`reinvert tune RECIPE -o FOLDER`: search a recipe's arguments for success, under a budget of forwards."""

from __future__ import annotations

import argparse
from pathlib import Path

from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError
from reinvert.models import check_device, check_dtype
from reinvert.values import number, positive, seed, steps


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a bundled recipe's name, or a TOML file")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="the search and its report; gone on with")
    parser.add_argument(
        "--search",
        nargs="+",
        default=[],
        metavar="RANGE",
        help="guidance=1:8, steps=10:50, p2p.cross=0:1, p2p.kind=refine|replace [steps, guidance, all shares]",
    )
    parser.add_argument("--trials", type=positive, default=20, metavar="N", help="in all, earlier calls' included [20]")
    parser.add_argument("--forwards", type=positive, metavar="N", help="the budget per picture [any]")
    parser.add_argument("--data", default="picturebook:v1", metavar="DATA", help="drawn cases [picturebook:v1]")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="only the first cases [20]")
    parser.add_argument("--model", metavar="NAME", help="in place of the recipe's own")
    parser.add_argument("--steps", type=steps, metavar="N", help="in place of the recipe's own, where not searched")
    parser.add_argument("--guidance", type=number, metavar="X", help="in place of the recipe's own, where not searched")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="cases made together [4]")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the search [0]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 [auto]")
    parser.add_argument("--quiet", action="store_true", help="do not tell every trial")


def run(args: argparse.Namespace) -> int:
    """The best trial's recipe is best.toml; the report is report.md and front.svg."""
    check_device(args.device)
    check_dtype(args.dtype)
    from dataclasses import replace

    from reinvert import recipes
    from reinvert.bench import tuning
    from reinvert.bench.data import open_data
    from reinvert.image import atomic_write

    given = {"model": args.model, "steps": args.steps, "guidance": args.guidance}
    recipe = replace(recipes.find(args.recipe), **{name: value for name, value in given.items() if value is not None})
    recipe.check()
    ranges = tuple(map(tuning.read_range, args.search)) or tuning.usual_ranges(recipe)
    folder = Path(args.out)
    search = tuning.Search(
        recipe, open_data(args.data), folder, ranges, args.trials, args.forwards, args.limit, args.batch, args.seed,
        args.device, args.dtype,
    )  # fmt: skip
    for trial in search.run():
        if not args.quiet:
            found = trial.cut or f"success {100 * (trial.success or 0):.0f} %, {trial.forwards:.0f} forwards"
            say(f"trial {trial.number}: {found}", error=True)
    trials = search.found()
    best = max(tuning.front(trials), key=lambda trial: trial.success or 0, default=None)
    if best is None:
        raise ReinvertError("no trial is within the budget; raise --forwards, or search fewer steps")
    made = tuning.with_values(recipe, best.values)
    share = f"success {100 * (best.success or 0):.0f} %"
    about = f"{recipe.name}, tuned on {len(search.cases)} cases of {args.data}: {share}."
    written = {"best.toml": tuning.as_toml(made, about), "front.svg": tuning.figure(trials)}
    written["report.md"] = tuning.report(search, trials)
    for name, text in written.items():

        def write(draft: Path, text: str = text) -> None:
            draft.write_text(text, encoding="utf-8")

        atomic_write(folder / name, write)
        say(folder / name)
    return 0
