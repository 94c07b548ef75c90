"""Where weights come from: a Hub id, a local folder, or a safetensors file. Pickles are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reinvert.errors import ReinvertError

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the folder's configuration (empty for a single file), and `digest` of the files."""

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    digest: str


def read(where: str | Path) -> Weights:
    """Read a safetensors file, or a folder or Hub repository with `*.safetensors` and perhaps `config.json`.

    Raises `ReinvertError` for a pickle, with the line that converts it, and for anything that is missing or damaged.
    """
    path = locate(where)
    try:
        tensors = {key: tensor for file in _files(path) for key, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ReinvertError(f"{where} cannot be read as safetensors: download or convert it again") from error
    config = read_json(path / "config.json") if path.is_dir() else {}
    return Weights(label(where), tensors, config, digest(path))


def digest(path: Path) -> str:
    """The first half of the SHA-256 of a file's bytes, or of a folder's weights (several: of their SHA-256s)."""
    sums: list[bytes] = []
    for file in _files(path):
        with file.open("rb") as opened:
            sums.append(hashlib.file_digest(opened, "sha256").digest())
    whole = sums[0] if len(sums) == 1 else hashlib.sha256(b"".join(sums)).digest()
    return whole.hex()[:32]


def label(where: str | Path) -> str:
    """The short name of a file, folder or Hub id: its last part without the suffix."""
    return str(where).rstrip("/").rpartition("/")[2].removesuffix(".safetensors")


def locate(where: str | Path) -> Path:
    """The local file or folder; a Hub id is fetched (or found in the local cache)."""
    path = Path(where)
    if path.suffix in PICKLES:
        raise ReinvertError(_refusal(path))
    if path.exists():
        return path
    parts = str(where).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~") or path.suffix == ".safetensors":
        raise ReinvertError(f"there is no {where}: give a .safetensors file, a folder, or a Hub id like org/model")
    return _download(str(where))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ReinvertError(f"{path} is not a JSON object: download it again") from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ReinvertError(f"{path.name} is not a .safetensors file: give one, a folder, or a Hub id")
        return [path]
    whole = path / "model.safetensors"
    found = [whole] if whole.is_file() else sorted(path.glob("*.safetensors"))
    if not found:
        pickles = [file for file in sorted(path.iterdir()) if file.suffix in PICKLES]
        raise ReinvertError(_refusal(pickles[0]) if pickles else f"the folder {path} has no .safetensors file")
    return found


def _refusal(path: Path) -> str:
    return (
        f'{path.name} is a pickle, which reinvert never loads: convert it once with python -c "import torch; from '
        f"safetensors.torch import save_file; save_file(torch.load('{path.name}', weights_only=True), "
        f"'{path.stem}.safetensors')\" and give the new file"
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "model*.safetensors"]))
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise ReinvertError(f"the Hub has no model {name!r} that you may read: check the name, or log in") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ReinvertError(
            f"{name!r} is not in the local cache and the Hub cannot be reached: give a local folder, or try online"
        ) from error
