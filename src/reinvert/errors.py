"""The one exception that reinvert raises for what a user can put right."""

from __future__ import annotations


class ReinvertError(ValueError):
    """Bad input: one clear sentence that says what to do."""


class NonFiniteError(ReinvertError):
    """A latent became infinite or NaN; the message names the step, who was walking and what to try."""

    def __init__(self, index: int, steps: int, who: str) -> None:
        super().__init__(
            f"step {index + 1} of {steps} of {who} produced a latent that is not finite; "
            "try --dtype float32 (or bfloat16), a lower --guidance, or more --steps"
        )
        self.index = index
