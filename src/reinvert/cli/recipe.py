"""`--recipe NAME`: a recipe fills in what was not typed; its methods' arguments become their defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from reinvert import presets, recipes
from reinvert.cli.common import DEFAULT_MODEL
from reinvert.errors import ReinvertError
from reinvert.recipes import Recipe


def settle(args: argparse.Namespace) -> Recipe:
    """Read the recipe that was asked for and put its settings where nothing was typed."""
    recipe = recipes.find(args.recipe)
    if recipe.trained:
        raise ReinvertError(
            f"recipe {recipe.name} is a row of a trained editor, which follows an instruction; run it with "
            "`reinvert instruct`"
        )
    for name in ("inversion", "editor", "compare"):
        if getattr(args, name) is not None:
            raise ReinvertError(f"the recipe names the methods; leave --{name} or --recipe out")
    for name, value in (("steps", recipe.steps), ("guidance", recipe.guidance), ("seed", recipe.seed)):
        if getattr(args, name) is None and not (name == "steps" and args.image.lower().endswith(".safetensors")):
            setattr(args, name, value)
    args.model = args.model or recipe.model
    args.inversion = None if args.image.lower().endswith(".safetensors") else recipe.inversion["name"]
    blended = args.blend is not None
    args.editor = "+".join(
        name for name in recipe.editors if name != "local_blend" or blended or args.mask or args.region
    )
    return recipe


def settle_preset(args: argparse.Namespace) -> None:
    """Put the recipe that a preset chooses for the two prompts, its steps and guidance where nothing was typed."""
    for name in ("recipe", "inversion", "editor", "compare"):
        if getattr(args, name) is not None:
            raise ReinvertError(f"a preset chooses the methods; leave --{name} or --preset out")
    if args.image.lower().endswith(".safetensors"):
        raise ReinvertError("a preset chooses the inversion too; give it the picture, not its trajectory")
    if not args.source or not args.target:
        raise ReinvertError("a preset reads the kind of edit from two prompts; add --source and --target")
    found = {presets.choose(args.preset, args.source, target) for target in args.target}
    if len({one.recipe for one in found}) > 1:
        raise ReinvertError("these targets are edits of several kinds, with a recipe each; edit them one by one")
    chosen = min(found, key=lambda one: one.kind)
    args.recipe, args.model = chosen.recipe, args.model or DEFAULT_MODEL
    args.steps = chosen.steps if args.steps is None else args.steps
    args.guidance = chosen.guidance if args.guidance is None else args.guidance


def defaults_of(recipe: Recipe, args: argparse.Namespace) -> Mapping[str, Mapping[str, Any]]:
    """The recipe's arguments of each method, by its name."""
    inversion = {key: value for key, value in recipe.inversion.items() if key != "name"}
    found = {name: recipes.tupled(given) for name, given in recipe.editors.items()}
    if recipe.case.boost is not None and args.blend is not None and "p2p" in found:
        found["p2p"] |= {"boost": dict.fromkeys(args.blend[1].split(","), recipe.case.boost)}
    return {**found, recipe.inversion["name"]: inversion}
