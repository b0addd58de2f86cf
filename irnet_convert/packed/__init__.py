"""The deployed network: packed weights, fused steps, a reference in PyTorch and native kernels.

Names are loaded when they are first used, so that loading a packed network imports nothing of what packing
or exporting needs.
"""

from __future__ import annotations

import importlib
from typing import Any

#: Name → the module of this package that defines it.
_PUBLIC = {
    "PackedModel": "model",
    "export_onnx": "onnx",
    "export_openvino": "openvino",
    "load_packed": "file",
    "pack": "packing",
    "save_packed": "file",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'irnet_convert.packed' has no attribute {name!r}")
    return getattr(importlib.import_module(f"irnet_convert.packed.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *globals()]
