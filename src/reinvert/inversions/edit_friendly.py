"""Edit-friendly DDPM inversion: noise the picture to every level anew, and find the noise a DDPM sampler would need.

    x_k = signal(k) x_0 + noise(k) n_k,  every n_k independent;   sigma_k z_{k-1} = x_{k-1} - mu_k(x_k, source)
    x_{k-1} <- mu_k(x_k, target) + sigma_k z_{k-1}                                            the same z for every row

An Edit Friendly DDPM Noise Space: Inversion and Manipulations, 2024, arXiv 2304.06140. sigma_k z_{k-1} is the shift
that holds the source on its path, so an anchor that the targets share needs no stored maps and no network to invert
(`form="anchor"`: 114 forwards with P2P at 50 steps instead of the published 328). Differs from the authors' code: the
maps that are skipped are not computed; the last map is kept, so that the picture's own latents come back
(`compat="published"` zeroes it); sigma z is kept instead of z, which does not exist where sigma is 0.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.anchor import Anchor
from reinvert.backbones.base import Backbone
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Progress, Source
from reinvert.level import Moment, Time
from reinvert.loop import Predictor, State, Step, add_noise, walk
from reinvert.noise import draws
from reinvert.steps import ddpm_mean, dpm_mean
from reinvert.trajectory import Kept, Trajectory, source_conditioning


def noised_path(model: Backbone, clean: Tensor, times: tuple[Time, ...], seed: int, drawn: int = 0) -> Tensor:
    """`clean` [case, channel, h, w], and above it itself noised anew to every level of `times` (noise to clean).

    The path is [N + 1, case, channel, h, w]. Its noise is drawn from the clean end upwards, so that a level gets the
    same noise wherever the walk begins.
    """
    levels = [model.level(time) for time in reversed(times[:-1])]
    noises = draws(clean, seed, skip=drawn)
    noised = [add_noise(clean, n, level) for level, n in zip(levels, noises, strict=False)]
    return torch.stack([clean, *noised])


@dataclass(frozen=True)
class EditFriendly(Inversion):
    """Stochastic and exact: the source is held on independently noised latents, and the targets share what holds it."""

    name: ClassVar[str] = "edit_friendly"
    when: ClassVar[str] = (
        "For edits that should vary from seed to seed and still come back exactly; good for colours, materials and "
        "added concepts. Not where one deterministic answer is wanted."
    )
    exact: ClassVar[bool] = True
    skip: float = 0.24
    """Share of the run that is skipped at its noisy end; more keeps more of the picture."""
    source_guidance: float = 1.0
    """Guidance scale of the source, in the inversion and in the edit (the authors' own runs: 3.5)."""
    form: Literal["anchor", "stored"] = "anchor"
    """anchor: all network work is the edit's. stored: the shifts are found once, which pays over several edits."""
    solver: Literal["ddpm", "dpm"] = "ddpm"
    """dpm: SDE-DPM-Solver++ of second order, as LEDITS++ uses it."""
    compat: Literal["correct", "published"] = "correct"
    """published: no noise in the last step, so that the source ends beside the picture's own latents."""

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1:
            raise ReinvertError(f"skip is a share from 0 on and below 1, not {self.skip}")

    @property
    def can_begin_later(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Stored shifts belong to their steps; a path can be entered anywhere."""
        return self.form == "anchor"

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {"shifts": ("step", "latent")} if self.form == "stored" else {}

    def stages(self, source: Source) -> Inverting:
        times = source.grid()[int(self.skip * source.steps) :]
        path = noised_path(source.model, source.x0, times, source.seed, source.drawn)
        yield Progress("noising", 1, 1)
        published, stored = self.compat == "published", self.form == "stored"
        kept: dict[str, Tensor] = {}
        if published or stored:
            # The last mean alone depends on one step, and by the second-order solver on two.
            steps = len(times) - 1 if stored else min(len(times) - 1, 1 if self.solver == "ddpm" else 2)
            shifts = yield from self._shifts(source, path[: steps + 1], times[-steps - 1 :])
            if published:
                path[0] -= shifts[0]
                shifts[0] = 0
            kept = {"shifts": shifts} if stored else {}
        # Where the shifts are stored, the source need not be evaluated to know them.
        pulled = {"strength": 1.0, "every": 1, "carry": "none" if stored else "source"}
        more = {"times": times, "kept": kept, "pulled": pulled, "source_guidance": self.source_guidance}
        return self._trajectory(source, path, **more)

    def _shifts(self, source: Source, path: Tensor, times: tuple[Time, ...]) -> Generator[Progress, None, Tensor]:
        """sigma_k z_{k-1}, what leads from the mean at path[k] to path[k - 1], at k - 1: [N, case, channel, h, w]."""
        shifts = torch.zeros_like(path[:-1])

        def noting(state: State, predict: Predictor, moment: Moment) -> State:
            after, k = self._mean(state, predict, moment), moment.steps - moment.index
            shifts[k - 1] = path[k - 1] - after.x[0]
            return after

        # Put back on the path after every step, the source is where the edit will have it, in any precision.
        walked = walk(
            source.model,
            times,
            State((path[-1][None],)),
            source_conditioning(source.model, source.prompts),
            guidance=(self.source_guidance,),
            step=noting,
            anchor=Anchor(path, carry="source"),
            who="edit-friendly inversion",
        )
        for moment, _ in walked:
            yield Progress("inverting", moment.index + 1, moment.steps)
        return shifts

    @property
    def _mean(self) -> Step:
        return ddpm_mean if self.solver == "ddpm" else dpm_mean

    def step(self, trajectory: Trajectory) -> Step:
        if "shifts" not in trajectory.kept:
            return self._mean
        shifts = trajectory.kept["shifts"]

        def shifted(state: State, predict: Predictor, moment: Moment) -> State:
            after = self._mean(state, predict, moment)
            shift = shifts[moment.steps - 1 - moment.index].to(after.x)
            return after.map(lambda x: x + shift)

        return shifted
