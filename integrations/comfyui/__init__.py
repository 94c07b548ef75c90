"""reinvert's nodes for ComfyUI. They call reinvert's verbs and hold no arithmetic of their own."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("reinvert") is None:
    raise ImportError("reinvert is not in ComfyUI's Python: install it there with `python -m pip install reinvert`")

from .methods import settings_nodes
from .nodes import NODES

NODE_CLASS_MAPPINGS = {f"Reinvert{node.__name__}": node for node in (*NODES, *settings_nodes())}
NODE_DISPLAY_NAME_MAPPINGS = {name: node.TITLE for name, node in NODE_CLASS_MAPPINGS.items()}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
