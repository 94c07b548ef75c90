"""LPIPS's own networks: SqueezeNet 1.1, AlexNet and VGG16 trunks with the learned weights of their channels.

The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, arXiv 1801.03924. The trunks' weights are
named as in torchvision's state dicts (`features.0.weight` ...), the learned ones as in the lpips package
(`lin0.model.1.weight` ...): converted to safetensors, those files load as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from reinvert.errors import ReinvertError
from reinvert.networks.files import Weights, read

Kind = Literal["squeeze", "alex", "vgg"]
# The published scaling of pictures in -1..1: (x - SHIFT) / SCALE.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Fire(nn.Module):
    """SqueezeNet's block: a narrow layer, then 1x1 and 3x3 filters side by side."""

    def __init__(self, inside: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inside, h, w]` to `[n, 2 wide, h, w]`."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeeze_net() -> nn.Sequential:
    """SqueezeNet 1.1 without its classifier."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    first = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool()]
    second = [Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192)]
    return nn.Sequential(*first, *second, Fire(384, 64, 256), Fire(512, 64, 256))


def alex_net() -> nn.Sequential:
    """AlexNet without its classifier and last pooling."""
    first = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    second = [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    third = [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, *second, *third, nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())


def vgg_net() -> nn.Sequential:
    """VGG16 without its classifier and last pooling."""
    layers: list[nn.Module] = []
    inside = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, 2)] if layers else []
        for _ in range(count):
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
            inside = width
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Trunk:
    """How a trunk is built, after which of its layers the features are read, and a weight that only it has."""

    build: Callable[[], nn.Sequential]
    read_after: tuple[int, ...]
    telling: tuple[str, tuple[int, ...]]


TRUNKS: dict[Kind, Trunk] = {
    "squeeze": Trunk(squeeze_net, (1, 4, 7, 9, 10, 11, 12), ("features.3.squeeze.weight", (16, 64, 1, 1))),
    "alex": Trunk(alex_net, (1, 4, 7, 9, 11), ("features.6.weight", (384, 192, 3, 3))),
    "vgg": Trunk(vgg_net, (3, 8, 15, 22, 29), ("features.28.weight", (512, 512, 3, 3))),
}


class Lpips(nn.Module):
    """LPIPS with one trunk. `kind` is found from the weights; it is the name, unless another is given."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str | None = None, digest: str = "") -> None:
        """Raises `ReinvertError` if the trunk or the learned weights are missing or do not fit each other."""
        super().__init__()
        self.kind = _kind(tensors, name or "the weights")
        self.name, self.digest = name or self.kind, digest
        trunk = TRUNKS[self.kind]
        self.features, self.read_after = trunk.build(), trunk.read_after
        own = {key.removeprefix("features."): t.float() for key, t in tensors.items() if key.startswith("features.")}
        try:
            self.features.load_state_dict({key: own[key] for key in self.features.state_dict()})
            for index in range(len(self.read_after)):
                self.register_buffer(f"weight{index}", _learned(tensors, index))
        except (KeyError, RuntimeError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ReinvertError(
                f"the {self.kind} weights of {self.name} are not complete ({reason[:120]}): LPIPS needs the trunk "
                "(torchvision's features.*) and the learned weights (the lpips package's lin0.model.1.weight ...)"
            ) from error
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, *where: str | Path, name: str | None = None) -> Lpips:
        """From one or several safetensors files or folders that together hold the trunk and the learned weights."""
        parts = [read(place) for place in where]
        return cls(merged(parts), name, "+".join(part.digest for part in parts))

    def maps(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """See `Perceptual`."""
        made: list[Tensor] = []
        for index, (fa, fb) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            weight = self.get_buffer(f"weight{index}")
            made.append((weight * (_unit(fa) - _unit(fb)) ** 2).sum(1, keepdim=True))
        return tuple(made)

    def _features(self, x: Tensor) -> list[Tensor]:
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        seen: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.read_after:
                seen.append(x)
        return seen


def merged(parts: Sequence[Weights]) -> dict[str, Tensor]:
    """The tensors of several files as one."""
    return {key: tensor for part in parts for key, tensor in part.tensors.items()}


def _unit(features: Tensor) -> Tensor:
    """Every place's features brought to length 1; the 1e-8 is torchmetrics', for places where all are 0."""
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _kind(tensors: Mapping[str, Tensor], who: str) -> Kind:
    for kind, trunk in TRUNKS.items():
        key, shape = trunk.telling
        if key in tensors and tuple(tensors[key].shape) == shape:
            return kind
    raise ReinvertError(
        f"{who}: no trunk of LPIPS is among these files; give torchvision's squeezenet1_1, alexnet or vgg16, "
        "converted to safetensors"
    )


def _learned(tensors: Mapping[str, Tensor], index: int) -> Tensor:
    """The learned weights of one layer's channels, `[1, channel, 1, 1]`."""
    for key, tensor in tensors.items():
        # The layer's place in its sequence is 1 behind a dropout, 0 without one.
        if re.fullmatch(rf"lin{index}\.model\.[01]\.weight", key):
            return tensor.float()
    raise KeyError(f"lin{index}.model.1.weight")
