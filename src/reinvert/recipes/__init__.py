"""Recipes: a TOML file names model, steps, inversion and editor with their arguments; one row of a table each.

    about = "Direct inversion with Prompt-to-Prompt."
    base = "another recipe, of which this one changes a part"
    published = "the name of this row in the published comparison"
    model = "CompVis/stable-diffusion-v1-4"
    steps = 50
    guidance = 7.5
    seed = 1234
    [inversion]
    name = "direct"
    [editors.p2p]
    cross = 0.4
    [case]                   # what is used of a case: blend words, a boost of the target's blend word, the mask
    blend = true
    boost = 2.0

A row of a trained editor has `[trained]` in place of inversion and editors. Every published row of PnP Inversion:
Boosting Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506, is here under its published name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from PIL import Image

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.files import check, inside, parse_toml, read_text, refusal, shown
from reinvert.files.recipe import SUFFIX, RecipeFile, RecipePart, check_name, read_bank

if TYPE_CHECKING:  # they import torch, which whoever only reads a recipe does not wait for
    from reinvert import verbs
    from reinvert.backbones.base import Backbone
    from reinvert.editors.base import Editor
    from reinvert.inversions.base import Inversion
    from reinvert.trajectory import Trajectory

MAX_DEPTH: Final = 5
LARGEST: Final = 2**18
"""Bytes of a recipe."""


@dataclass(frozen=True)
class Use:
    """What a recipe uses of a case."""

    blend: bool = False
    """Its blend words, where it has them: local_blend acts only on such cases."""
    boost: float | None = None
    """Factor of the target's blend word."""
    mask: bool = False
    """Its true mask; a report says so."""
    source: Literal["prompt", "empty"] = "prompt"
    """Whether the source is told what it shows."""


@dataclass(frozen=True)
class Recipe:
    """One row of a table. Methods are plain mappings here, so that a recipe is its own record."""

    name: str
    about: str
    model: str
    published: str = ""
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    inversion: Mapping[str, Any] = field(default_factory=dict)
    editors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    case: Use = field(default_factory=Use)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result but the case and the weights, as plain values."""
        return asdict(self)

    @property
    def inversion_key(self) -> str:
        """What the inversion depends on: recipes with equal keys share one inversion of a case."""
        told: dict[str, Any] = {"inversion": self.inversion, "steps": self.steps, "seed": self.seed}
        told["source"] = self.case.source
        method = self.inversion_method()
        if method.fits_guidance:
            told["guidance"] = self.guidance
        if method.takes_mask:
            told["mask"] = self.case.mask
        return json.dumps(told, sort_keys=True)

    def inversion_method(self) -> Inversion:
        """The inversion with its arguments."""
        given = {key: value for key, value in self.inversion.items() if key != "name"}
        return registry.make("inversions", self.inversion["name"], given)

    @property
    def trained_arguments(self) -> dict[str, Any]:
        """The settings of a trained editor; its steps and its model are the recipe's."""
        own = {key: value for key, value in self.trained.items() if key != "name"}
        return {"model": self.model, "steps": self.steps, **own}

    def editor_methods(self, blended: bool = True) -> tuple[Editor, ...]:
        """The editors in order; without blend words there is no local_blend."""
        wanted = {n: a for n, a in self.editors.items() if n != "local_blend" or blended or not self.case.blend}
        return tuple(registry.make("editors", name, tupled(given)) for name, given in wanted.items())

    def check(self) -> None:
        """Raise `ReinvertError` unless its methods exist, take their arguments and go together."""
        if self.trained:
            registry.make("trained", self.trained["name"], self.trained_arguments)
            return
        from reinvert.pairs import check_pair

        check_pair(self.inversion_method(), self.editor_methods(), masked=self.case.mask, guidance=self.guidance)

    def invert(
        self,
        model: Backbone,
        pictures: Sequence[Image.Image],
        sources: Sequence[str],
        masks: Sequence[Image.Image] | None = None,
        **more: Any,
    ) -> Trajectory:
        """Invert a batch of pictures as this recipe does; for their masks, where its inversion takes any."""
        from reinvert import verbs

        method, prompts = self.inversion_method(), [self.source_of(source) for source in sources]
        more.setdefault("batch_size", len(prompts))
        return verbs.invert(
            model, list(pictures), prompts, inversion=method, steps=self.steps, guidance=self.guidance, seed=self.seed,
            mask=list(masks) if masks is not None and self.case.mask and method.takes_mask else None, **more,
        )  # fmt: skip

    def source_of(self, prompt: str) -> str:
        return prompt if self.case.source == "prompt" else ""

    def edit(
        self,
        model: Backbone,
        trajectory: Trajectory,
        targets: Sequence[str],
        blends: Sequence[tuple[str, str] | None],
        masks: Sequence[Image.Image] | None = None,
        **more: Any,
    ) -> list[verbs.Result]:
        """Edit an inverted batch. Its cases must agree in whether they have blend words (`blend_groups`)."""
        from reinvert import verbs

        words = [pair for pair in blends if pair is not None] if self.case.blend else []
        if words and len(words) != len(blends):
            raise ReinvertError("cases with and without blend words go in batches of their own")
        boosts = None
        if self.case.boost is not None and words and "p2p" in self.editors:
            boosts = [{after: self.case.boost} for _, after in words]
        more.setdefault("batch_size", len(targets))
        edited: Any = verbs.edit(
            model,
            trajectory,
            target=list(targets) if len(targets) > 1 else targets[0],
            editor=list(self.editor_methods(bool(words))),
            guidance=self.guidance,
            seed=self.seed,
            blend=words or None,
            boost=boosts,
            mask=list(masks) if masks is not None and self.case.mask else None,
            **more,
        )
        return edited if isinstance(edited, list) else [edited]


def names() -> tuple[str, ...]:
    """Every bundled recipe, sorted."""
    return tuple(sorted(f.name.removesuffix(SUFFIX) for f in files(__name__).iterdir() if f.name.endswith(SUFFIX)))


def find(name: str) -> Recipe:
    """The recipe of that name, or the one in the TOML file of that path; it has been checked."""
    return _made(name, _read(name)) if name.endswith(SUFFIX) else _bundled(name)


@cache
def _bundled(name: str) -> Recipe:
    """A bundled recipe; a file may have been rewritten since it was last read, a bundled recipe not."""
    return _made(name, _read(name))


def _made(name: str, given: Mapping[str, Any]) -> Recipe:
    if "model" not in given or not (given.get("trained") or given.get("inversion")):
        raise _refused(name, "must name a model, and an [inversion] with [editors.NAME], or [trained]")
    methods = [given[key] for key in ("inversion", "trained") if given.get(key)]
    if any("name" not in method for method in methods) or (given.get("inversion") and not given.get("editors")):
        raise _refused(name, "must name its methods: name = ... in [inversion], and [editors.NAME]")
    called = Path(name).name.removesuffix(SUFFIX)
    check_name(called)
    entry = check(RecipeFile, given, f"recipe {shown(name)}")
    recipe = Recipe(
        name=called,
        about=entry.about,
        model=given["model"],
        published=entry.published,
        steps=entry.steps,
        guidance=float(entry.guidance),
        seed=entry.seed,
        inversion=given.get("inversion") or {},
        editors=given.get("editors", {}),
        trained=given.get("trained") or {},
        case=Use(**entry.case.model_dump()),
    )
    try:
        recipe.check()
    except ReinvertError as error:
        raise _refused(name, f"cannot be used: {error}") from error
    return recipe


def _refused(name: str, why: str) -> ReinvertError:
    return refusal(f"recipe {shown(name)} {why}")


def _read(name: str, depth: int = 0) -> dict[str, Any]:
    """The entries of a recipe with those of its base below them."""
    if depth > MAX_DEPTH:
        raise _refused(name, "is built on itself; give it another base")
    if name.endswith(SUFFIX):
        text = read_text(name, LARGEST, missing="`reinvert methods --recipes` lists the bundled recipes")
    else:
        if name not in names():
            near = difflib.get_close_matches(name, names(), 3, 0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "`reinvert methods --recipes` lists them"
            raise refusal(f"there is no recipe '{shown(name)}'; {hint}")
        text = (files(__name__) / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    given = parse_toml(text, f"recipe {shown(name)}")
    part = check(RecipePart, given, f"recipe {shown(name)}")
    if name.endswith(SUFFIX):
        _read_banks(given, Path(name).parent)
    if part.base is None:
        return given
    del given["base"]
    base = _base(part.base, name)
    below = {key: value for key, value in _read(base, depth + 1).items() if key not in ("about", "published")}
    return _over(below, given)


def _base(base: str, name: str) -> str:
    """A bundled recipe's name, or the path of a file beside the recipe that names it as its base."""
    if not base.endswith(SUFFIX):
        return base
    folder = Path(name).parent
    try:
        return str(folder / inside(folder, base, "base").relative_to(folder.resolve()))
    except ReinvertError as error:
        raise _refused(name, f"cannot be read: {error}") from error


def _read_banks(given: Mapping[str, Any], folder: Path) -> None:
    """Put the sentences of every @FILE that a list of sentences names in its place: they decide the result."""
    for table in given.get("editors", {}).values():
        for key, value in table.items():
            if isinstance(value, list):
                sentences = cast("list[Any]", value)
                table[key] = [line for item in sentences for line in _lines(item, folder)]


def _lines(item: Any, folder: Path) -> list[Any]:
    named = isinstance(item, str) and item.startswith("@")
    return read_bank(Path(item[1:]), folder) if named else [item]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`; tables are merged, but a table that names another method replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        renamed = both and "name" in value and value["name"] != old.get("name")  # pyright: ignore
        merged[key] = _over(old, value) if both and not renamed else value  # pyright: ignore
    return merged


def tupled(given: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has lists where the methods' fields are tuples."""
    return {key: _tuple(value) for key, value in given.items()}


def _tuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuple(inner) for key, inner in cast("dict[str, Any]", value).items()}
    return tuple(map(_tuple, cast("list[Any]", value))) if isinstance(value, list) else value


__all__ = ["Recipe", "Use", "find", "names", "tupled"]
