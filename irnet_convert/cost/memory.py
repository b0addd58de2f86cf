"""The memory that a forward pass keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def kept_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps of one forward pass, each storage counted once.

    Parameters and buffers are there anyway and do not count. A tensor that an operation keeps counts with its
    whole storage, which is what stays allocated.

    Args:
        model: whose parameters and buffers do not count.
        forward: a forward pass, with gradients; its result.

    Returns:
        Bytes.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # holding the tensors keeps their addresses from being used again

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    del result
    return total
