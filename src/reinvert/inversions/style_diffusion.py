"""StyleDiffusion: learn, at every step, what the picture adds to the values of cross-attention; keys stay words.

    [S_s, T_s] = M_s(E(x)),   K = W_K c,   V = W_V (c * S_s + T_s),   M(f) = W_3 act(norm(W_2 W_1 f)) + b_3
    M_s <- argmin || D_s(zbar, e_null + w (e(K, V) - e_null)) - z*_{N-s-1} ||^2 + sum over layers || A*_{N-s} - A ||^2

StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing, 2023, arXiv 2303.15649. E is a CLIP vision tower, M_s
mixes its tokens, norm is over a token's features, and M_s starts as M_{s-1}. As in the authors' code, unlike the paper:
S and T modulate the text instead of taking its place; A* is the inversion's map at the same latent, asked one step
noisier (the first step borrows the second's). Unlike the code: pictures are encoded once, only the small networks get
gradients, null predictions are reused, every case stops on its own, and biases that the norm takes away again are left
out. Where tower and text differ in width, a learned linear map of the tower's features is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.vision import load_tower, usual_tower
from reinvert.editors.attention import map_grid, probabilities
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Call, Hooks, Kind, Row, Site, sdpa
from reinvert.inversions.base import Inversion, Inverting, Progress, Source, climb
from reinvert.inversions.null_text import descend
from reinvert.level import Moment
from reinvert.loop import Predictor, State, walk
from reinvert.precision import around
from reinvert.text import Conditioning, Side, Text, rows_at
from reinvert.trajectory import Kept, Trajectory, source_conditioning

Network = Mapping[str, Tensor]
"""The weights of one mapping network, by name; stacked over cases where several are run."""


@dataclass(frozen=True)
class StyleDiffusion(Inversion):
    """Fits one small network per sampling step; an edit needs only what they say, which the trajectory keeps."""

    name: ClassVar[str] = "style_diffusion"
    takes_gradients: ClassVar[bool] = True
    needs_null_side: ClassVar[bool] = True
    acts_on: ClassVar[tuple[Kind, ...]] = ("cross",)
    when: ClassVar[str] = (
        "Where the look of what is there must survive an edit of its words, and minutes per picture are affordable. "
        "Not for a quick try: it costs about twice null_text, and is fitted to one guidance scale."
    )
    can_begin_later: ClassVar[bool] = False
    encoder: str = ""
    """Folder or Hub id of the CLIP whose vision half sees the picture; empty: the model's own, or CLIP ViT-B/16."""
    inner: int = 100
    """Most optimisation steps at the first sampling step."""
    inner_decay: float = 0.1
    """Sampling step s has ceil(inner * exp(-inner_decay * s)) of them."""
    rate: float = 0.01
    """Adam's learning rate at the first sampling step."""
    rate_decay: float = 0.01
    """The rate at step s is rate * (1 - rate_decay * s)."""
    early_stop: float = 1e-5
    """A case stops once its loss is below early_stop + early_stop_slope * s ..."""
    early_stop_slope: float = 2e-5
    """... which grows with the step index s."""
    attention: float = 1.0
    """Weight of the attention loss; 0 leaves it out."""
    grid: int = 16
    """Smallest side of the attention maps it compares, where the latents have that many cells."""
    tau_v: float = 0.5
    """Share of the run in which the targets' values are modulated too; the source's always are."""

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise ReinvertError(f"inner counts optimisation steps and is at least 1, not {self.inner}")
        if not 0 <= self.tau_v <= 1:
            raise ReinvertError(f"tau_v is a share between 0 and 1, not {self.tau_v}")

    @property
    def fits_guidance(self) -> bool:
        return True

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {"scale": ("step", "text"), "shift": ("step", "text")}

    def stages(self, source: Source) -> Inverting:
        model, conditioning = source.model, source_conditioning(source.model, source.prompts)
        features = self.features(source)
        networks = self.networks(source, features, conditioning.text.tokens)
        maps = _Kept(self.grid)
        path = yield from climb(source, hooks=maps if self.attention else None)
        fitting = _Fit(self, path, source.guidance, features, networks, maps.by_step)
        walked = walk(
            model, source.grid(), State((path[-1][None],)), conditioning,
            guidance=(source.guidance,), step=fitting, who="StyleDiffusion",
        )  # fmt: skip
        for moment, _ in walked:
            yield Progress("fitting", moment.index + 1, source.steps)
        kept = {"scale": torch.stack(fitting.scales), "shift": torch.stack(fitting.shifts)}
        return self._trajectory(source, path, kept=kept, guidance=source.guidance)

    def features(self, source: Source) -> Tensor:
        """E(x), [case, image token, dim]: what the vision tower sees."""
        model = source.model
        tower = load_tower(self.encoder or usual_tower(model.name), model.device, around(model.dtype))
        pictures = model.decode(source.x0).clamp(-1, 1) if source.pictures is None else source.pictures
        return tower.tokens(pictures)

    def networks(self, source: Source, features: Tensor, keys: Tensor) -> list[Network]:
        """The first step's network of every case; they start alike, from the seed."""
        start = fresh(features.shape[-2:], keys.shape[-2:], source.seed)
        return [{name: weight.to(features) for name, weight in start.items()} for _ in features]

    def budget(self, step: int) -> int:
        """Most optimisation steps at a sampling step."""
        return math.ceil(self.inner * math.exp(-self.inner_decay * step))

    def conditioning(self, trajectory: Trajectory, conditioning: Conditioning) -> Conditioning:
        tokens, steps = conditioning.text.tokens, trajectory.walked
        scales, shifts = (trajectory.kept[name].to(tokens) for name in ("scale", "shift"))

        def at(step: int) -> Text:
            values = tokens * scales[step] + shifts[step]
            values = values if step < steps * self.tau_v else torch.cat([values[:1], tokens[1:]])
            return replace(conditioning.text, values=values)

        return replace(conditioning, at_step=tuple(at(step) for step in range(steps)))


# --- the mapping network -------------------------------------------------------------------------------------------


def fresh(seen: tuple[int, ...], said: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """A mapping network as torch initialises its layers, for `seen` and `said` (token, dim) of picture and text."""
    generator, out = torch.Generator().manual_seed(seed), 2 * said[0]

    def draw(*shape: int, fan_in: int) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)

    network = {
        "first": draw(out, seen[0], fan_in=seen[0]),
        "second": draw(out, out, fan_in=out),
        "gain": torch.ones(out),
        "bias": torch.zeros(out),
        "third": draw(out, out, fan_in=out),
        "third_bias": draw(out, fan_in=out),
    }
    return network if seen[1] == said[1] else {**network, "width": draw(said[1], seen[1], fan_in=seen[1])}


def modulation(network: Network, seen: Tensor) -> tuple[Tensor, Tensor]:
    """S and T [case, token, dim] of pictures' features [case, image token, dim]; weights are [case, ...].

    The norm is the published batch norm, which is never in evaluation mode: with one picture its batch is the features
    of a token.
    """
    f = seen @ network["width"].mT if "width" in network else seen
    h = F.layer_norm(network["second"] @ (network["first"] @ f), f.shape[-1:])
    h = F.leaky_relu(network["gain"][..., None] * h + network["bias"][..., None])
    scale, shift = (network["third"] @ h + network["third_bias"][..., None]).chunk(2, -2)
    return scale, shift


# --- the fit -------------------------------------------------------------------------------------------------------


@dataclass
class _Fit:
    """The `Step` that learns before it moves; `networks`, one per case, are carried on as the next step's start."""

    method: StyleDiffusion
    path: Tensor
    guidance: float
    features: Tensor
    networks: list[Network]
    maps: dict[int, list[Tensor]]
    scales: list[Tensor] = field(default_factory=list[Tensor])
    shifts: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, state: State, predict: Predictor, moment: Moment) -> State:
        x, every, above = state.x[0], list(range(len(state.x[0]))), moment.steps - moment.index
        null = None
        if self.guidance != 1:
            with torch.no_grad():
                null = predict.plain(x, predict.conditioning.side(Side.NULL, 0, moment.index), moment)
        if self.guidance != 0:
            self._learn(x, null, self.maps.get(min(above, moment.steps - 1), []), predict, moment)
        self.maps.pop(above, None)
        with torch.no_grad():
            scale, shift = self._modulation(self.networks, every)
            self.scales.append(scale)
            self.shifts.append(shift)
            answer = null
            if self.guidance != 0:
                answer = self._guided(self._text(x, predict, (scale, shift), every, moment, None), null)
            assert answer is not None
            split = predict.model.split(x, answer, moment)
            return replace(state, latents=(split.at(moment.next_level)[None],))

    def _modulation(self, networks: list[Network], cases: list[int]) -> tuple[Tensor, Tensor]:
        stacked = {name: torch.stack([networks[i][name] for i in cases]) for name in networks[0]}
        return modulation(stacked, rows_at(self.features, cases))

    def _text(
        self, x: Tensor, predict: Predictor, modulation: tuple[Tensor, Tensor], cases: list[int], moment: Moment,
        watching: Hooks | None,
    ) -> Tensor:  # fmt: skip
        """The model's answer to some cases, whose values are modulated; gradients are kept."""
        plain = predict.conditioning.side(Side.TEXT, 0, moment.index).at(cases)
        text = replace(plain, values=plain.tokens * modulation[0] + modulation[1])
        call = None if watching is None else Call((Row(Side.TEXT, 0),), {}, moment, watching)
        return predict.model.answer(rows_at(x, cases)[None], text[None], moment.ask, call)[0]

    def _guided(self, text: Tensor, null: Tensor | None) -> Tensor:
        return text if null is None else null + self.guidance * (text - null)

    def _learn(self, x: Tensor, null: Tensor | None, maps: list[Tensor], predict: Predictor, moment: Moment) -> None:
        s, method = moment.index, self.method
        goal = self.path[moment.steps - 1 - s]
        leaves: list[Network] = [
            {name: weight.clone().requires_grad_() for name, weight in network.items()} for network in self.networks
        ]

        def losses(active: list[int]) -> Tensor:
            distance = _Distance(method.grid, [rows_at(layer, active) for layer in maps]) if maps else None
            text = self._text(x, predict, self._modulation(leaves, active), active, moment, distance)
            answer = self._guided(text, None if null is None else rows_at(null, active))
            reached = predict.model.split(rows_at(x, active), answer, moment).at(moment.next_level)
            loss = (reached - rows_at(goal, active)).square().flatten(1).mean(1)
            return loss if distance is None else loss + method.attention * distance.total

        descend(
            [list(network.values()) for network in leaves],
            losses,
            most=method.budget(s),
            rate=method.rate * (1 - method.rate_decay * s),
            enough=method.early_stop + method.early_stop_slope * s,
            tally=predict.model.tally,
        )
        self.networks = [{name: weight.detach() for name, weight in network.items()} for network in leaves]


class _Maps(Hooks):
    """Shows `see` the cross-attention maps [case, head, query, token] of the down and up blocks on one grid, layer by
    layer; changes nothing."""

    def __init__(self, grid: int, see: Callable[[Tensor, Moment], None]) -> None:
        self.grid, self.see = grid, see

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        wanted = site.kind == "cross" and site.layer.part != "mid"
        if wanted and site.grid == map_grid(site.latent, self.grid):
            self.see(probabilities(q, k)[0], site.moment)
        return inner(q, k, v, site)


class _Kept(_Maps):
    """The inversion's maps by step and layer, out of the accelerator's memory (150 MB per picture at 512 pixels)."""

    def __init__(self, grid: int) -> None:
        super().__init__(grid, lambda maps, moment: self.by_step.setdefault(moment.index, []).append(maps.cpu()))
        self.by_step: dict[int, list[Tensor]] = {}

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        if not self.by_step:
            raise ReinvertError(
                "this model has no cross-attention on the grid that style_diffusion compares; choose another `grid`, "
                "or attention=0"
            )
        if moment.index == 1:
            del self.by_step[0]  # the cleanest latent's are compared with nothing
        return x


class _Distance(_Maps):
    """Adds up how far the maps are from the inversion's, layer by layer, for every case: `total` [case]."""

    def __init__(self, grid: int, wanted: list[Tensor]) -> None:
        super().__init__(grid, self._add)
        self.wanted, self.total = iter(wanted), torch.zeros(len(wanted[0]))

    def _add(self, maps: Tensor, moment: Moment) -> None:
        apart = (maps - next(self.wanted).to(maps)).square().flatten(1).mean(1)
        self.total = self.total.to(apart) + apart
