"""Properties 4 and 5 by value, on a small instance with real, random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from irnet_convert.coverage.autograd import tensors_of
from irnet_convert.coverage.reference import expected_output, weight_problem
from irnet_convert.coverage.signs import is_pooled
from irnet_convert.layers import BinaryLayer, binary_layers


def wake(model: nn.Module) -> None:
    """Give parameters that are initialised to zero, or next to it, values that let signals through."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() and parameter.abs().max() < 1e-4:
                noise = torch.randn(parameter.shape, generator=generator)
                centre = 0.5 if parameter.dim() == 1 and "bias" not in name else 0.0
                parameter.copy_(0.2 * noise + centre)


def without_dropping(model: nn.Module) -> None:
    """Turn off what drops random parts in training mode."""
    for module in model.modules():
        for name in ("drop_prob", "p"):
            dropping = isinstance(module, nn.modules.dropout._DropoutNd | torchvision.ops.StochasticDepth)
            if isinstance(getattr(module, name, None), float) and (name == "drop_prob" or dropping):
                setattr(module, name, 0.0)


def trained_once(
    student: nn.Module, inputs: tuple[Any, ...], *, both_signs: bool = True
) -> tuple[list[str], list[str]]:
    """One forward and backward pass in training mode, every binary layer compared with the reference.

    Args:
        student: a converted model; its gradients and batch statistics change.
        inputs: arguments of its forward in training mode.
        both_signs: whether each layer must receive a negative value. The input of a squeeze-excite gate, a
            mean of SiLU's results, can be negative and rarely is.

    Returns:
        What is wrong with the values of its binary layers (property 4), and with their gradients (5).
    """
    student.train()
    without_dropping(student)
    watched = _Watched(student)
    with watched:
        output = student(*inputs)
    generator = torch.Generator().manual_seed(3)
    total = torch.zeros(())
    for tensor in tensors_of(output):
        if tensor.requires_grad:
            total = total + (tensor * torch.randn(tensor.shape, generator=generator)).sum()
    student.zero_grad()
    total.backward()
    return list(watched.problems(both_signs)), list(_gradients(student, watched.called))


def _gradients(student: nn.Module, called: set[str]) -> Iterator[str]:
    for path, layer in binary_layers(student):
        if path not in called:
            continue
        grad = layer.weight.grad
        if grad is None:
            yield f"no gradient reaches the latents of {path}"
        elif not grad.isfinite().all():
            yield f"the gradient of the latents of {path} is not finite"
        elif not grad.any():
            yield f"the gradient of the latents of {path} is zero"


class _Watched:
    """Compares every call of every binary layer with the reference."""

    def __init__(self, student: nn.Module) -> None:
        self.layers = dict(binary_layers(student))
        self.called: set[str] = set()
        self.negative: set[str] = set()
        self.wrong: dict[str, str] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for path, layer in self.layers.items():
            problem = weight_problem(layer)
            if problem:
                self.wrong[path] = problem
            hook = self._comparing(path, layer)
            self._handles.append(layer.operator.register_forward_hook(hook, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _comparing(self, path: str, layer: BinaryLayer) -> Any:
        def compare(
            operator: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> None:
            self.called.add(path)
            # A maximum over a window can be negative, and on few small images may never be.
            if (args[0] < 0).any() or is_pooled(args[0].grad_fn):
                self.negative.add(path)
            given = dict(zip(("input", "zero_pad"), args, strict=False)) | kwargs
            with torch.no_grad():
                want = expected_output(layer, given.pop("input"), **given)
            # Sums of ±1 are exact; a scale and a bias round.
            bound = 1e-4 * max(1.0, want.abs().max().item()) if want.numel() else 0.0
            if want.shape != output.shape:
                self.wrong[path] = f"its output is {tuple(output.shape)}, the reference's {tuple(want.shape)}"
            elif not ((output.detach().double() - want).abs() <= bound).all():
                self.wrong[path] = "its output is not that of ±1 operands"

        return compare

    def problems(self, both_signs: bool) -> Iterator[str]:
        """What was found, layer by layer."""
        for path, layer in self.layers.items():
            if path not in self.called:
                continue  # in evaluation mode perhaps; property 4 by data flow looks at both
            if path in self.wrong:
                yield f"{path}: {self.wrong[path]}"
            if both_signs and layer.act_bits == 1 and path not in self.negative:
                yield f"{path} received no negative value"
