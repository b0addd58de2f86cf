"""Property 6: the rewritten model with its layers left dense, against the original under equal seeds."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan_of
from irnet_convert.coverage.autograd import tensors_of
from irnet_convert.errors import PolicyError
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.traced import install, trace
from irnet_convert.layers import BinaryLayer, SignedAttention


class Dense:
    """The forward of a dense layer that takes what a binary one takes beyond the input."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, input: Tensor, zero_pad: Sequence[int] | None = None, **how: Any) -> Tensor:
        """Pad with zeros, then the layer itself, with ``bias`` in place of its own if given."""
        x = input if zero_pad is None else F.pad(input, list(zero_pad))
        bias = how.pop("bias", True)
        if bias is not True:
            weight = self.layer.get_parameter("weight")
            return F.linear(x, weight, bias)
        return type(self.layer).forward(self.layer, x, **how)


def skeleton(original: nn.Module, example_input: Any, policy: str = "irnet") -> nn.Module | None:
    """A conversion of a copy of ``original`` whose layers are dense again.

    Without the rewrites that change values on purpose (Hardtanh, shortcuts): what stays is what conversion
    does to padding and to weights that their owner applies itself, and every forward that it replaces.

    Returns:
        The copy, or None if without those rewrites no layer can be binarized.
    """
    model = copy.deepcopy(original)
    dense = dict(model.named_modules(remove_duplicate=False))
    try:
        binarize(model, policy, example_input=example_input, rewrites=(), inplace=True)
    except PolicyError:
        return None
    for decision in plan_of(model).binarized:
        layer = dense[decision.path]
        if isinstance(layer, nn.MultiheadAttention):
            layer = SignedAttention.of(layer, sign=None)
        else:
            vars(layer)["forward"] = Dense(layer)
        for path in (decision.path, *decision.aliases):
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = layer
    assert not any(isinstance(m, BinaryLayer) for m in model.modules())
    return model


def unedited(original: nn.Module, plan: Plan) -> nn.Module:
    """A copy of ``original`` with the unedited graphs of the forwards that the plan replaces."""
    model = copy.deepcopy(original)
    for owner, passed in plan.traced.items():
        module = model.get_submodule(owner)
        install(module, trace(module, set(passed)))
    return model


def differences(
    original: nn.Module, other: nn.Module, inputs: tuple[Any, ...], *, training: bool, what: str
) -> Iterator[str]:
    """Where ``other`` does not do what ``original`` does: outputs, and batch statistics afterwards.

    Both run under equal seeds, so that dropout and drop-path draw the same numbers.
    """
    mode = "training" if training else "evaluation"
    models = (copy.deepcopy(original).train(training), copy.deepcopy(other).train(training))
    with torch.no_grad():
        want, got = (tensors_of(_seeded(lambda m=m: m(*inputs))) for m in models)
    if len(want) != len(got):
        yield f"{what}, {mode} mode: {len(got)} outputs instead of {len(want)}"
        return
    for one, two in zip(want, got, strict=True):
        if not _close(one, two):
            yield f"{what}, {mode} mode: an output differs from the original's"
            break
    buffers = dict(models[1].named_buffers())
    for name, buffer in models[0].named_buffers():
        if name in buffers and not _close(buffer, buffers[name]):
            yield f"{what}, {mode} mode: the buffer {name} differs from the original's"
            break


def _close(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, two)
    largest = one.abs().max().item() if one.numel() else 0.0
    return torch.allclose(one, two, rtol=1e-4, atol=1e-5 * max(largest, 1e-3), equal_nan=True)


def _seeded(run: Callable[[], Any]) -> Any:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    return run()
