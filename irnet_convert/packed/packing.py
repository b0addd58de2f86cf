"""``pack``: a binarized model to a packed network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.errors import ArgumentError, ModelError, PackError
from irnet_convert.layers import BinaryLayer
from irnet_convert.packed.capture import FREEDOMS, capture, prepare
from irnet_convert.packed.emit import REAL_DTYPES
from irnet_convert.packed.fuse import Fused, fuse
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.stem import with_integer_stem


def pack(
    model: nn.Module,
    *,
    example_input: Any = None,
    real_dtype: torch.dtype = torch.float32,
    stem_bits: int | None = None,
) -> PackedModel:
    """Pack a binarized model for inference: one bit a weight, fused steps, native kernels.

    The model is exported in evaluation mode, whatever mode it is in, and left as it is. What can be fused
    becomes one call a region; what cannot stays in PyTorch, and ``packed.report()`` says which.

    Args:
        model: made by :func:`irnet_convert.binarize`, or with binary layers of its own.
        example_input: a tensor, a tuple of positional arguments or a dict of keyword arguments with which
            the model can be called. Left out, it is the one that the model was converted with, or what timm's
            ``pretrained_cfg`` or torchvision say. Batch, height and width stay free where the model allows.
        real_dtype: how real weights are stored: torch.float32, torch.float16 or torch.bfloat16. They are
            computed with in float32.
        stem_bits: 8 or 16 quantises the first layers: their weights now, each image at the call by its own
            maximum. None leaves them real.

    Returns:
        A module for inference on the CPU.

    Raises:
        PackError: the model has no binary layer, cannot be exported, or calls what a packed network may not;
            or its first layers cannot be quantised.
        ArgumentError: another ``real_dtype`` or ``stem_bits``.
        RecordError: there is no example input.
    """
    _check(model, real_dtype)
    args, kwargs = _example(model, example_input)
    twin, notes = prepare(model)
    fused = _fused(twin, args, kwargs, real_dtype)
    source = {"model": type(model).__name__, "notes": notes, **_description(model)}
    packed = PackedModel(fused.network, fused.programs, fused.blobs, fused.constants, source)
    return packed if stem_bits is None else with_integer_stem(packed, stem_bits)


def _check(model: nn.Module, real_dtype: torch.dtype) -> None:
    if not isinstance(model, nn.Module):
        raise PackError(
            f"the model is a {type(model).__name__}", expected="a torch.nn.Module with binary layers",
            mend="packed = irnet_convert.pack(irnet_convert.binarize(model))",
        )  # fmt: skip
    if isinstance(model, PackedModel):
        raise PackError(
            "the model is packed already", expected="a model that irnet_convert.binarize returned",
            mend="use it as it is",
        )  # fmt: skip
    if not any(isinstance(m, BinaryLayer) for m in model.modules()):
        raise PackError(
            f"{type(model).__name__} holds no binary layer",
            expected="a model that irnet_convert.binarize returned",
            mend="convert it first: irnet_convert.binarize(model), and fine-tune it",
        )
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise PackError(
            f"{type(model).__name__} has tensors on the meta device", expected="a model with weights",
            mend="load its weights before packing",
        )  # fmt: skip
    if real_dtype not in REAL_DTYPES:
        raise ArgumentError(
            f"real_dtype={real_dtype!r}", expected="torch.float32, torch.float16 or torch.bfloat16",
            mend="choose one of the three",
        )  # fmt: skip


def _example(model: nn.Module, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example arguments on the CPU, in float32, of two images at least: export takes a one for a constant."""
    from irnet_convert.graph.example import Example, example_of

    recorded = getattr(getattr(model, "irnet_plan", None), "example", None)
    if given is None and recorded is not None:
        given = Example.from_dict(recorded)
    example = example_of(model, given).to(torch.device("cpu"))

    def ready(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().float() if value.is_floating_point() else value.detach()
        return value.repeat(2, *[1] * (value.dim() - 1)) if value.dim() and len(value) == 1 else value

    return tuple(map(ready, example.args)), {k: ready(v) for k, v in example.kwargs.items()}


def _fused(twin: nn.Module, args: Any, kwargs: Any, real_dtype: torch.dtype) -> Fused:
    """With as many sizes free as the model allows."""
    last: ModelError | None = None
    for freedom in FREEDOMS:
        try:
            return fuse(capture(twin, args, kwargs, freedom), real_dtype)
        except ModelError as error:
            last = error
    assert last is not None
    raise last


def _description(model: nn.Module) -> dict[str, Any]:
    """What timm says of the model: its name, input size and normalisation."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    cfg = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg
    if not isinstance(cfg, dict):
        return {}
    found = {
        key: cfg.get(key)
        for key in ("architecture", "input_size", "mean", "std", "interpolation", "crop_pct")
    }
    return {key: value for key, value in found.items() if value is not None}
