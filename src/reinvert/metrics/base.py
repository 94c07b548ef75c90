"""What a metric is, how it is found, and the two modes that are never mixed.

* `strict`: what the words say. A region's value is the mean over the region's pixels, and networks are fed the range
  they were trained on.
* `compat`: the arithmetic of the published evaluator of PIE-Bench to the letter. Both pictures are multiplied by the
  mask, so that everything else is black in both, and the value is taken over the full frame; DINO is fed 0..255.

Pictures are `[n, 3, h, w]` in 0..1; a mask is `[n, 1, h, w]` in 0..1 and is 1 **where the pictures are compared** (so
the unedited part's metrics get one minus the mask of the edit). Values are `[n]`, one per picture, NaN where the region
is empty. Nothing is averaged over pictures here: that belongs to the report.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from reinvert.errors import ReinvertError

Mode = Literal["strict", "compat"]
Direction = Literal["higher", "lower"]
Need = Literal["none", "lpips", "structure", "clip"]
"""The kind of network that a metric asks for as `network=`."""


@dataclass(frozen=True)
class Metric:
    """A metric's page in a report: `value * scale` is shown with `unit`."""

    name: str
    title: str
    direction: Direction
    """Which way is better."""
    compute: Callable[..., Tensor]
    """The function of the same name."""
    unit: str = ""
    scale: float = 1.0
    """The factor that the papers' tables show values with, such as 1000 for LPIPS."""
    needs: Need = "none"

    @property
    def arrow(self) -> str:
        """An arrow that points where better is."""
        return "↑" if self.direction == "higher" else "↓"

    @property
    def heading(self) -> str:
        """What heads a column: title, unit or display factor, direction. `MSE ×10⁴ ↓`."""
        factor = "" if self.scale == 1 else f" ×10{_POWERS[self.scale]}"
        return f"{self.title}{factor}{f' ({self.unit})' if self.unit else ''} {self.arrow}"


_POWERS = {100.0: "²", 1000.0: "³", 10000.0: "⁴"}


def names() -> tuple[str, ...]:
    """Every metric, sorted: those of this folder and of the entry-point group `reinvert.metrics`."""
    return tuple(sorted({*_own(), *_points()}))


def find(name: str) -> Metric:
    """The metric behind a name; an unknown name is answered with the nearest ones."""
    points = _points()
    if name in points:
        return points[name].load()
    if name not in _own():
        near = difflib.get_close_matches(name, names(), 3, 0.4) or list(names())
        raise ReinvertError(f"there is no metric {name!r}; did you mean {' or '.join(near)}?")
    return import_module(f"reinvert.metrics.{name}").METRIC


def _own() -> set[str]:
    package = import_module("reinvert.metrics")
    return {m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base" and not m.ispkg}


def _points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group="reinvert.metrics")}


# --- what the metrics share --------------------------------------------------------------------------------------


def check(a: Tensor, b: Tensor, mask: Tensor | None, mode: str) -> None:
    """Refuse what cannot be compared, in one sentence."""
    if mode not in get_args(Mode):
        raise ReinvertError(f"there is no mode {mode!r}: use strict or compat")
    if a.ndim != 4 or a.shape[1] != 3 or a.shape != b.shape:
        raise ReinvertError(
            f"pictures of shapes {list(a.shape)} and {list(b.shape)} cannot be compared: pass two tensors "
            "[n, 3, height, width] of one size"
        )
    if mask is not None and mask.shape != (a.shape[0], 1, *a.shape[2:]):
        raise ReinvertError(
            f"a mask of shape {list(mask.shape)} does not fit pictures of shape {list(a.shape)}: "
            "pass [n, 1, height, width]"
        )


def blackened(x: Tensor, mask: Tensor | None) -> Tensor:
    """The picture as the published evaluator sees a region: black everywhere else."""
    return x if mask is None else x * mask


def whole_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over each picture's full frame, `[n]`; NaN where the mask is empty (the published rule)."""
    means = values.flatten(1).mean(1)
    return means if mask is None else means.masked_fill(mask.flatten(1).sum(1) == 0, torch.nan)


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of `values` `[n, c, h, w]` over the mask's pixels and all channels, `[n]`; NaN for an empty mask."""
    if mask is None:
        return whole_mean(values)
    weighted = (values.mean(1, keepdim=True) * mask).flatten(1).sum(1)
    return weighted / mask.flatten(1).sum(1)


def filled(shown: Tensor, behind: Tensor, mask: Tensor | None) -> Tensor:
    """`shown` where the mask is 1 and `behind` elsewhere.

    A window or a receptive field at a region's border sees what lies beyond it. With the other picture put there, what
    is not compared cannot change the value.
    """
    return shown if mask is None else mask * shown + (1 - mask) * behind
