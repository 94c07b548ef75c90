"""The one exception that reinvert raises for what a user can put right."""

from __future__ import annotations


class ReinvertError(ValueError):
    """Bad input: one clear sentence that says what to do."""
