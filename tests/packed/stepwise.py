"""Every step of a packed model on the exact inputs that the exported graph gives it.

A sign that flips because two right ways to round differ changes everything behind it, in a network that is
not trained; so a whole network says little about one step. Here the graph is run operator by operator, and
each step is computed from what the operators before it returned.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from irnet_convert.binary import sign
from irnet_convert.packed import captured
from irnet_convert.packed.bits import unpack_bits
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.capture import Captured, capture, prepare
from irnet_convert.packed.emit import _Drafting, emit
from irnet_convert.packed.flow import Flow
from irnet_convert.packed.lower import lower
from irnet_convert.packed.reference import _run_step
from irnet_convert.packed.regions import Regions
from irnet_convert.packed.shapes import conv_padding


class Truth(fx.Interpreter):
    """The exported graph, operator by operator, with binary layers as PyTorch computes them."""

    def __init__(self, found: Captured) -> None:
        super().__init__(fx.GraphModule(nn.Module(), found.graph), garbage_collect_values=False)
        self.found = found

    def values(self, *inputs: Tensor) -> dict[fx.Node, Any]:
        """What each node returned."""
        given = iter(inputs)
        wanted = {n.name: n for _, n in self.found.inputs}
        held = {n.name: t for n, (_, t) in self.found.tensors.items()}
        args = [
            next(given) if n.name in wanted else held.get(n.name)
            for n in self.module.graph.nodes if n.op == "placeholder"
        ]  # fmt: skip
        self.run(*args)
        # The module holds a copy of the graph; its nodes have the same names.
        own = {n.name: n for n in self.found.graph.nodes}
        return {own[n.name]: value for n, value in self.env.items()}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is captured.captured_conv:
            x, bits, shape, stride, padding, mode, dilation, groups, signed = args
            x = sign(x) if signed else x
            rule: Any = tuple(padding) or "same"
            amounts = conv_padding(rule, x.shape[2:], shape[2:], stride, dilation)
            x = F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)
            weight = unpack_bits(bits, tuple(shape)) if bits.dtype == torch.uint8 else bits
            return F.conv2d(x, weight, None, stride, 0, dilation, groups)
        if target is captured.captured_linear:
            x, bits, shape, signed = args
            return F.linear(sign(x) if signed else x, unpack_bits(bits, tuple(shape)))
        return super().call_function(target, args, kwargs)


def steps_alone(model: nn.Module, x: Tensor, freedom: str = "batch") -> list[tuple[str, Tensor, Tensor]]:
    """Each step of each region: its kind and weight, what it computes, and what the operators computed."""
    twin, _ = prepare(model)
    found = capture(twin, (x,), {}, freedom)
    flow = Flow(found)
    regions = Regions(flow, lower(flow))
    with torch.no_grad():
        truth = Truth(found).values(x)

    def value(node: fx.Node) -> Tensor:
        result = truth[node]
        return result[0] if isinstance(result, tuple | list) else result

    checked = []
    for level in regions.levels():
        drafting, made = _Drafting(regions, level), emit(regions, level, torch.float32)
        last = {draft: node for node, draft in drafting.draft_of.items()}
        values = [value(n) for n in made.inputs] + [value(last[i]) for i in range(len(last))]
        blob = make_blob(made.program, made.tensors)
        for i, step in enumerate(made.program.steps):
            result = _run_step(i, values, made.program, blob)
            name = f"{step.kind} {drafting.drafts[i].piece.weight and drafting.drafts[i].piece.weight.name}"
            checked.append((name, result, value(last[i])))
    return checked
