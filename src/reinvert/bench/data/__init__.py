"""Readers of benchmark data: `open_data` finds out which one a path or a name is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from reinvert.bench.case import Data
from reinvert.bench.data import coco, folder, picturebook, pie_bench, pie_bench_pp
from reinvert.errors import ReinvertError
from reinvert.files import expanded, shown

READERS: Final = (pie_bench, folder, coco, pie_bench_pp)
"""Each has `find(folder)`, the file that it would read there or None, and `read(file)`."""

KNOWN: Final = (
    f"{pie_bench.PIE} (PIE-Bench), {pie_bench.TI2I} (TI2I), cases.csv or cases.jsonl (your own), "
    "captions_*.json (COCO), *.parquet (PIE-Bench++)"
)


def open_data(spec: str | os.PathLike[str]) -> Data:
    """The cases of a data set.

    `picturebook:v1` and `picturebook:v1-heldout` are sets that never change, and `picturebook:100?seed=3` draws 100
    cases. A folder is what the files in it say: PIE-Bench (`mapping_file.json`),
    TI2I (`mapping_file_ti2i_benchmark.json`), one's own (`cases.csv` or `cases.jsonl`), COCO captions
    (`captions_*.json`) or PIE-Bench++ (`*.parquet`), in this order; the path of such a file chooses it. The heads of
    pictures are read, not their pixels (`bench.check` reads those). What is wrong with single cases is in `problems`;
    the rest can be used.

    Raises `ReinvertError` if there is nothing that can be read.
    """
    name = os.fspath(spec)
    if name.partition(":")[0].partition("?")[0] == picturebook.NAME and not Path(name).exists():
        return picturebook.read(name)
    try:
        place = expanded(name)
        there = place.exists()
    except ReinvertError:
        raise
    except (OSError, ValueError) as error:  # too long, half a character
        raise ReinvertError(f"{shown(name)} is no name of a folder; check the path") from error
    if not there:
        raise ReinvertError(f"{shown(name)} does not exist; name a folder of data, or {picturebook.NAME}:100")
    data = _file(place) if place.is_file() else _folder(place)
    if data is None:
        raise ReinvertError(f"{shown(name)} is no data set that is known: {KNOWN}")
    if not data.cases and not data.problems:
        raise ReinvertError(f"{shown(name)} holds no cases; check that it is complete")
    return data


def _folder(place: Path) -> Data | None:
    for reader in READERS:
        found = reader.find(place)
        if found is not None:
            return reader.read(found)
    return None


def _file(path: Path) -> Data | None:
    if path.name in pie_bench.NAMES:
        return pie_bench.read(path)
    if path.suffix in (".csv", ".jsonl"):
        return folder.read(path)
    if path.name.startswith(coco.PREFIX) and path.suffix == ".json":
        return coco.read(path)
    return pie_bench_pp.read(path) if path.suffix == ".parquet" else None


__all__ = ["open_data"]
