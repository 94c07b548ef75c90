"""Runs the cells of a notebook in order and stores what they show: printed text, pictures, values.

    python docs/run_notebook.py [docs/notebook.ipynb]

A few lines instead of a Jupyter server: the notebook uses Python alone, and the tests run it this way too.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """The names that the cells leave; their outputs are stored in the notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = shown("".join(cell["source"]), names, count)
    return names


def shown(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Execute one cell; its outputs as a notebook stores them."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(True)}
        if hasattr(value, "save") and hasattr(value, "getbands"):  # a PIL picture
            file = io.BytesIO()
            value.save(file, "PNG", optimize=True)
            data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": ["<picture>"]}
        elif hasattr(value, "_repr_png_"):
            data = {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": ["<result>"]}
        elif hasattr(value, "_repr_html_"):
            data = {"text/html": value._repr_html_().splitlines(True)} | data
        outputs.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    return outputs


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else NOTEBOOK).resolve()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
