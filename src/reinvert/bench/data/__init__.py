"""Readers of benchmark data: `open_data` finds out which one a path or a name is for."""

from __future__ import annotations

from pathlib import Path

from reinvert.bench.case import Data
from reinvert.bench.data import coco, folder, picturebook, pie_bench, pie_bench_pp
from reinvert.errors import ReinvertError


def open_data(spec: str | Path) -> Data:
    """The cases of a data set.

    `picturebook:100?seed=3` draws 100 cases. A folder is PIE-Bench (`mapping_file.json`), TI2I
    (`mapping_file_ti2i_benchmark.json`), PIE-Bench++ (`*.parquet`), COCO captions (`captions_*.json`), or one's own
    (`cases.csv` or `cases.jsonl`). Whatever is wrong with single cases is in `problems`; the rest can be used.
    Raises `ReinvertError` if nothing there can be read at all.
    """
    if str(spec).split(":")[0] == "picturebook" and not Path(spec).exists():
        return picturebook.read(str(spec))
    root = Path(spec)
    if not root.exists():
        raise ReinvertError(f"{spec} does not exist; name a folder of data, or picturebook:COUNT")
    if root.is_file():
        root = root.parent
    for reader in (pie_bench, folder, coco, pie_bench_pp):
        if reader.fits(root):
            return reader.read(root)
    raise ReinvertError(
        f"{spec} holds none of the data sets that are known: mapping_file.json (PIE-Bench), cases.csv or cases.jsonl "
        "(your own), captions_*.json (COCO), *.parquet (PIE-Bench++)"
    )


__all__ = ["open_data"]
