"""Edit a real image with words, by inverting it into a pretrained diffusion model.

    import reinvert

    model  = reinvert.load("picturebook")            # bundled; or a folder in diffusers format, or a Hub id
    image  = reinvert.draw("a red cat on grass")     # or a path, bytes, an open file, PIL, numpy, torch
    result = reinvert.edit(model, image, source="a red cat on grass", target="a red dog on grass")
    result.image.save("dog.png")

The picture is inverted once, and can then be edited many times:

    path   = reinvert.invert(model, image, "a red cat on grass")     # a Trajectory
    dog    = reinvert.edit(model, path, target="a red dog on grass")
    blue   = reinvert.edit(model, path, target="a blue cat on grass", editor="p2p+local_blend", blend=("red", "blue"))
    path.save("cat.trajectory.safetensors")

What there is:

    load          a model, by its name, its folder, or its id on the Hub
    edit          a picture or a trajectory with words                            -> Result
    invert        a picture, to edit it many times                                -> Trajectory
    reconstruct   invert and render again, to see what is lost                    -> Result
    instruct      edit by an instruction, with a network trained for that
    region        the mask of what words name in a picture: "the cat"
    caption       what a picture shows, as a first source prompt
    draw          a picturebook scene from a caption, to have a picture to edit
    methods       the inversions and editors there are, with their arguments

The verbs take one picture or a list, and every argument of the methods that they name: `cross` and `boost` of p2p,
`inner` of null_text. `watch=` is called with the `Progress` of every step. Bad input raises a `ReinvertError` (a
`ValueError`) of one sentence; what is worth knowing is a `ReinvertWarning` of the standard `warnings`. Nothing is
printed.

One model may be used from several threads: edits wait for each other (`busy="raise"` of `load`: a `BusyError`).

On the command line: `reinvert --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reinvert.backbones import load
    from reinvert.captions import caption
    from reinvert.errors import BusyError, NonFiniteError, ReinvertError, ReinvertWarning
    from reinvert.inversions.base import Progress
    from reinvert.picturebook.picture import draw
    from reinvert.regions import region
    from reinvert.registry import methods
    from reinvert.trained import instruct
    from reinvert.trajectory import Trajectory
    from reinvert.verbs import Result, edit, invert, reconstruct

__all__ = [
    "BusyError",
    "NonFiniteError",
    "Progress",
    "ReinvertError",
    "ReinvertWarning",
    "Result",
    "Trajectory",
    "caption",
    "draw",
    "edit",
    "instruct",
    "invert",
    "load",
    "methods",
    "reconstruct",
    "region",
]
__version__ = "0.2.0"

# torch takes seconds to import; whoever only wants `reinvert --help` or the version does not wait for it.
_HOME = {
    "BusyError": "reinvert.errors",
    "NonFiniteError": "reinvert.errors",
    "Progress": "reinvert.inversions.base",
    "ReinvertError": "reinvert.errors",
    "ReinvertWarning": "reinvert.errors",
    "Result": "reinvert.verbs",
    "Trajectory": "reinvert.trajectory",
    "caption": "reinvert.captions",
    "draw": "reinvert.picturebook.picture",
    "edit": "reinvert.verbs",
    "instruct": "reinvert.trained",
    "invert": "reinvert.verbs",
    "load": "reinvert.backbones",
    "methods": "reinvert.registry",
    "reconstruct": "reinvert.verbs",
    "region": "reinvert.regions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reinvert' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
