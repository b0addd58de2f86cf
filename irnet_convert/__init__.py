"""irnet-convert: timm and torchvision models to IR-Net binary networks.

Public names are loaded when they are first used (PEP 562), so that importing the package is cheap and a
packed network needs neither timm nor the training code.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name → the module that defines it.
_PUBLIC = {
    "BinaryConv2d": "layers",
    "BinaryLinear": "layers",
    "Decision": "graph.plan",
    "IrnetError": "errors",
    "Plan": "graph.plan",
    "Policy": "policy",
    "Recipe": "recipe",
    "Rule": "policy",
    "Summary": "report",
    "binarize": "convert",
    "export_onnx": "packed",
    "export_openvino": "packed",
    "finetune": "train",
    "from_pretrained": "pretrained",
    "is_binarized": "convert",
    "load": "train",
    "load_packed": "packed",
    "pack": "packed",
    "param_groups": "layers",
    "plan": "convert",
    "plan_of": "convert",
    "push_to_hub": "pretrained",
    "save_packed": "packed",
    "save_pretrained": "pretrained",
    "set_progress": "layers",
    "summarize": "report",
    "to_dense": "convert",
}

__all__ = [*_PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'irnet_convert' has no attribute {name!r}")
    return getattr(importlib.import_module(f"irnet_convert.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *globals()]
