"""picturebook as a benchmark: drawn on the fly, with the true edit and the exact mask of every case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image

from reinvert.bench.case import Attributes, Data, EditCase, Mask
from reinvert.bench.data import fixed
from reinvert.bench.data.common import bracketed, marked
from reinvert.errors import ReinvertError
from reinvert.files.data import SIDES
from reinvert.picturebook.draw import SIZE, Detail, detail_of, draw, true_edit
from reinvert.picturebook.edits import EDIT_TYPES, Edit, sample_edits
from reinvert.picturebook.scene import PLACE

NAME: Final = "picturebook"


@dataclass(frozen=True)
class Drawing:
    """An edit at a size in pixels: drawn at that size, or (`enlarged`) at the model's, each pixel then repeated.

    The detail is `simple` at every size unless another is asked for: that is the bundled model's world."""

    edit: Edit
    size: int = SIZE
    enlarged: bool = False
    detail: Detail = "simple"

    @property
    def _drawn(self) -> int:
        return SIZE if self.enlarged else self.size

    def picture(self) -> Image.Image:
        return self._shown(draw(self.edit.source, self._drawn, self.detail))

    def mask(self) -> Mask:
        return self.truth()[1]

    def true_edit(self) -> Image.Image:
        return self.truth()[0]

    def truth(self) -> tuple[Image.Image, Mask]:
        """The true edit and its mask, which are drawn together."""
        picture, mask = true_edit(self.edit.source, self.edit.target, self._drawn, self.detail)
        times = self.size // self._drawn
        return self._shown(picture), mask.repeat(times, 0).repeat(times, 1)

    def attributes(self) -> tuple[Attributes, Attributes]:
        """What a perfect judge reads in the picture and in the true edit."""
        from reinvert.picturebook.reader import truth  # it imports torch, which whoever lists cases does not wait for

        return truth(self.edit.source), truth(self.edit.target)

    def _shown(self, picture: Image.Image) -> Image.Image:
        return picture.resize((self.size, self.size), Image.Resampling.NEAREST)


def read(spec: str) -> Data:
    """`picturebook:100`: so many held-out edits, the types taking turns; `?seed=3&size=128&types=1,6` after it.
    `picturebook:v1` and `picturebook:v1-heldout`: the fixed sets (`bench.data.fixed`), with `?size=` and `detail=`.
    `detail=fine` is for pictures in full detail.

    The same seed and types give the same edits, whatever the count.
    """
    told = re.fullmatch(rf"{NAME}(?::(\d+|v\d+[a-z-]*))?(?:\?(.*))?", spec)
    if told is None:
        raise ReinvertError(f"{spec!r} is no data; write {NAME}:v1, {NAME}:100 or {NAME}:100?seed=3")
    is_fixed = told[1] is not None and told[1].startswith("v")
    given = {"size": str(SIZE), "detail": "simple"}
    if not is_fixed:
        given |= {"seed": "0", "types": ",".join(map(str, EDIT_TYPES))}
    for part in filter(None, (told[2] or "").split("&")):
        name, _, value = part.partition("=")
        if name not in given:
            raise ReinvertError(f"{NAME} has no {name!r} here; after ? come {', '.join(given)}")
        given[name] = value
    if is_fixed:
        size = _number(given["size"], "size")
        return _fixed(told[1], size, detail_of(size, given["detail"]))
    count, seed, size = int(told[1] or 100), _number(given["seed"], "seed"), _number(given["size"], "size")
    types = tuple(_number(part, "types") for part in given["types"].split(","))
    check(count, size, types)
    detail = detail_of(size, given["detail"])
    shown = [f"seed={seed}"] + [f"size={size}"] * (size != SIZE)
    shown += [f"types={','.join(map(str, types))}"] * (types != tuple(EDIT_TYPES))
    shown += [f"detail={detail}"] * (detail != "simple")
    edits = sample_edits(count, types, seed, unseen=True)
    cases = tuple(
        case_of(Drawing(edit, size, detail=detail), f"{edit.type_id}{index:05d}") for index, edit in enumerate(edits)
    )
    return Data(f"{NAME}:{count}?{'&'.join(shown)}", cases)


def _fixed(name: str, size: int, detail: Detail) -> Data:
    check(1, size)
    cases = tuple(case_of(Drawing(edit, size, detail=detail), key) for key, edit in fixed.edits_of(name))
    given = [f"size={size}"] * (size != SIZE) + [f"detail={detail}"] * (detail != "simple")
    shown = f"?{'&'.join(given)}" * bool(given)
    return Data(f"{NAME}:{name}{shown}", cases, about={"data": f"{NAME}:{name}", "content": fixed.content(name)})


def check(count: int, size: int, types: Sequence[int] = tuple(EDIT_TYPES)) -> None:
    """Raise `ReinvertError` for a number that cannot be."""
    if not 1 <= count <= 99_999:
        raise ReinvertError(f"{NAME} draws 1 to 99999 cases, not {count}")
    if not SIDES[0] <= size <= SIDES[1]:
        raise ReinvertError(f"{NAME} draws pictures of {SIDES[0]} to {SIDES[1]} pixels a side, not {size}")
    for type_id in types:
        if type_id not in EDIT_TYPES:
            raise ReinvertError(f"there is no edit type {type_id}; choose from {', '.join(map(str, EDIT_TYPES))}")


def case_of(drawing: Drawing, name: str) -> EditCase:
    """A drawing as a case."""
    edit = drawing.edit
    before, after = bracketed(edit.source_prompt, edit.target_prompt)
    return EditCase(
        id=name,
        source_prompt=edit.source_prompt,
        target_prompt=edit.target_prompt,
        open_picture=drawing.picture,
        type_id=str(edit.type_id),
        instruction=edit.instruction,
        blend=blend_of(edit),
        source_marked=marked(before),
        target_marked=marked(after),
        open_mask=drawing.mask,
        open_true_edit=drawing.true_edit,
        open_attributes=drawing.attributes,
    )


def blend_of(edit: Edit) -> tuple[str, str] | None:
    """One word of either prompt that together cover what changes; None where no two words do.

    PIE-Bench has one word a side. So a hat that comes is (who wears it, hat), and there are no words for a second
    thing that comes or goes, for a change of style, and for a change of both a thing and the background.
    """
    source, target = edit.source, edit.target
    if source.style != target.style or len(source.things) != len(target.things):
        return None
    if source.background != target.background:
        same = source.things == target.things
        return (PLACE[source.background].split()[-1], PLACE[target.background].split()[-1]) if same else None
    one, two = next(((a, b) for a, b in zip(source.things, target.things, strict=True) if a != b), (None, None))
    if one is None or two is None:
        return None
    worn = one.wearing != two.wearing
    only_worn = replace(one, wearing=two.wearing) == two
    before = one.wearing if worn and only_worn and one.wearing else one.kind
    after = two.wearing if worn and one.kind == two.kind and two.wearing else two.kind
    return before, after


def _number(told: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,9}", told):
        raise ReinvertError(f"{name} in a {NAME} benchmark is a whole number, not {told!r}")
    return int(told)
