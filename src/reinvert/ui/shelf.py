"""The models that the page offers; one is held at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from reinvert import pairs, registry
from reinvert.backbones import Backbone, load
from reinvert.errors import ReinvertError
from reinvert.models import Usual, check_name


@dataclass(frozen=True)
class Choices:
    """What a model can run and what is usual for it, as the page needs it when another model is held."""

    table: dict[str, dict[str, str | None]]
    """For each inversion and editor why they do not go together, or None."""
    usual: Usual
    lacking: dict[str, str | None]
    """What the model lacks for each editor, or None."""

    @classmethod
    def of(cls, model: Backbone) -> Choices:
        """Ask a model."""
        editors = [registry.make("editors", name) for name in registry.names("editors")]
        return cls(
            pairs.matrix(model), model.usual, {editor.name: editor.lacks(model, masked=True) for editor in editors}
        )

    def all_editors(self) -> tuple[str, ...]:
        """Every editor that goes with an inversion at least."""
        rows = self.table.values()
        return tuple(name for name in next(iter(rows)) if any(row[name] is None for row in rows))

    def inversions_for(self, editor: str) -> tuple[str, ...]:
        """The inversions that an editor goes with."""
        return tuple(name for name, row in self.table.items() if row[editor] is None)

    def refused_for(self, editor: str) -> dict[str, str]:
        """The inversions that it does not go with, and why."""
        return {name: why for name, row in self.table.items() if (why := row[editor]) is not None}

    def joinable(self, inversion: str, editor: str) -> tuple[str, ...]:
        """The editors that can be joined to another."""
        inverts, first = registry.make("inversions", inversion), registry.make("editors", editor)
        others = [registry.make("editors", name) for name in self.all_editors() if name != editor]
        able = [other for other in others if self.lacking[other.name] is None]
        return tuple(other.name for other in able if pairs.why_not(inverts, [first, other]) is None)


class Shelf:
    """Models by the names that the command line gave. Loading one lets the other go."""

    def __init__(self, names: Sequence[str], device: str = "auto", dtype: str = "auto") -> None:
        for name in names:
            check_name(name)
        self.names, self.device, self.dtype = tuple(dict.fromkeys(names)), device, dtype
        self._lock = threading.Lock()
        self._held: tuple[str, Backbone] | None = None
        self._choices: dict[str, Choices] = {}

    def check(self, name: str) -> None:
        """Raise `ReinvertError` for a model that is not offered: the page loads nothing else."""
        if name not in self.names:
            raise ReinvertError(f"there is no model {name!r} here; choose from {', '.join(self.names)}")

    def get(self, name: str) -> Backbone:
        """The model, loaded if it is not held; then it is the only one held."""
        self.check(name)
        with self._lock:
            if self._held is None or self._held[0] != name:
                self._held = None  # before the other is loaded: together they may be too much
                model = load(name, self.device, self.dtype)
                self._choices[name] = Choices.of(model)  # now: asking later could mean loading it again
                self._held = name, model
            return self._held[1]

    def is_held(self, name: str) -> bool:
        return self._held is not None and self._held[0] == name

    def preload(self) -> threading.Thread:
        """Load the first model, and what a first edit needs besides, while nobody waits for it."""
        thread = threading.Thread(target=partial(self._preload, self.names[0]), daemon=True, name="reinvert-preload")
        thread.start()
        return thread

    def _preload(self, name: str) -> None:
        try:
            self.choices(name)
        except Exception:  # whoever asks for the model is told
            return

    def choices(self, name: str) -> Choices:
        """What the model can run; it is loaded for this if it has not been asked before."""
        if name not in self._choices:
            self.get(name)
        return self._choices[name]
