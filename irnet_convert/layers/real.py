"""The magnitude of real weights, which a scale stands for where the weights are binary."""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude(filters: Tensor) -> Tensor:
    """mean|w − mean(w)| of each filter, 1 where that is 0; what a layer's scale begins as.

    Args:
        filters: (out, ...).

    Returns:
        (out, 1, ...), differentiable, of the wider of float32 and the dtype of ``filters``.
    """
    rows = filters.flatten(1).to(torch.promote_types(filters.dtype, torch.float32))
    found = (rows - rows.mean(1, keepdim=True)).abs().mean(1)
    return torch.where(found == 0, 1.0, found).reshape(-1, *[1] * (filters.dim() - 1))
