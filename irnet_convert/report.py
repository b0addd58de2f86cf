"""Summary: parameters, memory, multiply-adds and binary operations of a model, per layer and in total.

Conventions: one multiply-add counts as one operation; a binary multiply-add (XNOR and popcount, both
operands 1 bit) is one BOP; OPs = FLOPs + BOPs/64 (Liu et al., Bi-Real Net, ECCV 2018, section 4.3). Memory is
that of the parameters: 1 bit for a binary weight, 32 for everything else. Layers with binary weights and
real activations (W1A32) save memory but run real, so they count as FLOPs.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from irnet_convert.graph.apply import PLAN_ATTRIBUTE
from irnet_convert.graph.example import Example, example_of, is_detector
from irnet_convert.graph.flow import is_barrier
from irnet_convert.graph.ops import DROP, REARRANGE
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.record import Node, Record, is_layer, record, weight_of
from irnet_convert.layers import BinaryLayer

#: BOPs that one OP stands for: a 64-bit word holds 64 binary multiply-adds.
BOPS_PER_OP = 64


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One convolution or linear layer. ``flops`` and ``bops`` are for one input sample."""

    path: str
    kind: str
    weight_bits: int
    act_bits: int
    params: int
    binary_params: int
    memory_bits: int
    flops_fp32: int
    flops: int
    bops: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Totals for one input sample, and the layers.

    Attributes:
        params: number of parameters, shared ones once.
        binary_params: how many of them are binary weights.
        memory_bits: bits that the parameters take, binary weights 1 bit each.
        memory_bits_fp32: bits that they take at 32 bits each.
        flops_fp32: multiply-adds of all convolution and linear layers.
        flops: those of them that stay real.
        bops: those that are binary.
        ops: flops + bops / 64.
        layers: one row per layer.
        uncounted: operator → how often it ran, for what neither flops nor bops holds: attention products,
            products with parameters that belong to no layer, and element-wise work.
        sample: what one sample was, where it is not the example's.
    """

    params: int
    binary_params: int
    memory_bits: int
    memory_bits_fp32: int
    flops_fp32: int
    flops: int
    bops: int
    ops: float
    layers: tuple[LayerSummary, ...]
    uncounted: dict[str, int]
    sample: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready data."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=150).print(self.__rich__())
        return out.getvalue().rstrip()

    def __rich__(self) -> Table:
        columns = ("layer", "W/A", "params", "memory", "FLOPs", "BOPs")
        sample = f"per {self.sample}" if self.sample else "per input sample"
        table = Table(title=f"{sample}; one multiply-add counts as one", title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < 2 else "right", overflow="fold")
        for r in self.layers:
            style = "green" if r.weight_bits == 1 else None
            bits = f"{r.weight_bits}/{r.act_bits}"
            table.add_row(r.path, bits, f"{r.params:,}", _size(r.memory_bits), _count(r.flops),
                          _count(r.bops), style=style)  # fmt: skip
        table.add_section()
        table.add_row("total", "", f"{self.params:,}", _size(self.memory_bits), _count(self.flops),
                      _count(self.bops))  # fmt: skip
        table.add_row("full precision", "32/32", f"{self.params:,}", _size(self.memory_bits_fp32),
                      _count(self.flops_fp32), "")  # fmt: skip
        table.caption = self._caption()
        return table

    def _caption(self) -> str:
        fewer = self.flops_fp32 / self.ops if self.ops else 1.0
        smaller = self.memory_bits_fp32 / self.memory_bits if self.memory_bits else 1.0
        most = ", ".join(f"{name}×{count}" for name, count in list(self.uncounted.items())[:6]) or "nothing"
        return (
            f"OPs = FLOPs + BOPs/64 = {_count(self.ops)} ({fewer:.1f}× fewer); "
            f"memory {smaller:.1f}× smaller; not counted: {most}"
        )


def summarize(model: nn.Module, example_input: Any = None) -> Summary:
    """Count what ``model`` holds and does.

    Args:
        model: any model that can be recorded, converted or not.
        example_input: as for :func:`irnet_convert.plan`; left out, a converted model is run on the input
            that it was converted with.

    Returns:
        A Summary; printing it shows a table. Operations are for one sample: those of the example divided by
        its batch size. A detection model of torchvision is counted on an image of 128×128 pixels in which its
        heads look at one place, whatever the example is.

    Raises:
        RecordError: the model does not run on the example, or none is known.
    """
    example = _example(model, example_input)
    rec = record(model, example)
    macs, counted = multiply_adds(model, rec)
    batch = _batch(example)
    layers = tuple(
        _layer(path, layer, macs[path] // batch) for path, layer in model.named_modules() if is_layer(layer)
    )
    binary = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, BinaryLayer)}
    params = sum(p.numel() for p in model.parameters())
    binary_params = sum(binary.values())
    flops, bops = sum(r.flops for r in layers), sum(r.bops for r in layers)
    return Summary(
        params=params,
        binary_params=binary_params,
        memory_bits=32 * (params - binary_params) + binary_params,
        memory_bits_fp32=32 * params,
        flops_fp32=flops + bops,
        flops=flops,
        bops=bops,
        ops=flops + bops / BOPS_PER_OP,
        layers=layers,
        uncounted=_uncounted(rec, counted),
        sample="image of 128×128 pixels with one proposal" if is_detector(model) else None,
    )


def _example(model: nn.Module, given: Any) -> Example:
    plan = getattr(model, PLAN_ATTRIBUTE, None)
    if given is None and isinstance(plan, Plan) and plan.example is not None:
        return Example.from_dict(plan.example)
    return example_of(model, given)


def _batch(example: Example) -> int:
    if example.batch is not None:
        return example.batch
    first = next((a for a in (*example.args, *example.kwargs.values()) if isinstance(a, Tensor)), None)
    return first.shape[0] if first is not None and first.dim() > 1 else 1


def multiply_adds(model: nn.Module, rec: Record) -> tuple[Counter[str], set[int]]:
    """Multiply-adds by layer, and the indices of the nodes that they were counted at.

    Args:
        model: the model that was recorded; its modules may be on any device.
        rec: one run of it.

    Returns:
        Layer path → multiply-adds of the whole example (not of one sample), and node indices.
    """
    modules = dict(model.named_modules())
    names = {id(p): n for n, p in model.named_parameters()}
    owner_of = {names[id(w)]: path for path, m in modules.items() if is_layer(m)
                and id(w := weight_of(m)) in names}  # fmt: skip
    macs: Counter[str] = Counter()
    counted: set[int] = set()
    for node in rec.nodes:
        if node.layer is not None:
            macs[node.layer] += _layer_macs(modules[node.layer], rec, node)
            counted.add(node.index)
        elif is_barrier(node, rec):
            # A layer's weight used by somebody else's operator, such as attention's projections.
            weights = [owner_of[rec.params[v]] for v in node.inputs if rec.params.get(v) in owner_of]
            if weights and node.op == "linear":
                macs[weights[0]] += prod(rec.shapes[node.outputs[0]]) * rec.shapes[node.inputs[0]][-1]
                counted.add(node.index)
    return macs, counted


def _layer_macs(layer: nn.Module, rec: Record, node: Node) -> int:
    weight = weight_of(layer)
    assert weight is not None
    if isinstance(layer, _ConvTransposeNd):
        return prod(rec.shapes[node.inputs[0]]) * prod(weight.shape[1:])
    return prod(rec.shapes[node.outputs[0]]) * prod(weight.shape[1:])


def _layer(path: str, layer: nn.Module, macs: int) -> LayerSummary:
    binary = isinstance(layer, BinaryLayer)
    act_bits = layer.act_bits if isinstance(layer, BinaryLayer) else 32
    # The output projection below an attention is a layer of its own.
    alone = not isinstance(layer, nn.MultiheadAttention)
    params = sum(p.numel() for p in layer.parameters(recurse=alone))
    weights = layer.weight.numel() if binary else 0
    bops = macs if binary and act_bits == 1 else 0
    return LayerSummary(
        path=path, kind=type(layer).__name__, weight_bits=1 if binary else 32, act_bits=act_bits,
        params=params, binary_params=weights, memory_bits=32 * (params - weights) + weights,
        flops_fp32=macs, flops=macs - bops, bops=bops,
    )  # fmt: skip


def _uncounted(rec: Record, counted: set[int]) -> dict[str, int]:
    free = REARRANGE | DROP
    ops = Counter(n.op for n in rec.nodes if n.index not in counted and n.op not in free and n.inputs)
    return dict(ops.most_common())


def _size(bits: int) -> str:
    kib = bits / 8 / 1024
    return f"{kib / 1024:.2f} MiB" if kib >= 1024 else f"{kib:.1f} KiB"


def _count(n: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:.0f}"
