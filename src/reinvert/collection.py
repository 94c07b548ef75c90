"""The garbage collector while libraries are imported and weights are read.

Importing a large library makes hundreds of thousands of objects that all stay. Python's collector of cycles walks them
again and again while they grow, a fifth of the time that it takes to load a model, and finds nothing to free.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Generator[None]:
    """No cycles are collected meanwhile; afterwards the collector is as it was."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
