"""Pooling windows at the end of an input, for engines that round sizes up in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from irnet_convert.packed.steps import AvgPool, MaxPool


def ends(step: MaxPool | AvgPool, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The padding at the lower and the right end with which rounding down gives PyTorch's windows.

    Args:
        step: the pooling.
        before: height and width of its input.
        after: of its output.
    """
    dilation = step.dilation if isinstance(step, MaxPool) else (1, 1)
    found = []
    for axis in (0, 1):
        reach = dilation[axis] * (step.kernel[axis] - 1) + 1
        needed = (after[axis] - 1) * step.stride[axis] + reach - before[axis] - step.padding[axis]
        found.append(max(step.padding[axis], needed))
    return found


def recount(step: AvgPool, before: Sequence[int], after: Sequence[int]) -> np.ndarray | None:
    """What an average that counts all padding is to be multiplied by; None where that is 1 everywhere.

    PyTorch divides by the places of a window that are input or the step's own padding. Those further on,
    which a window reaches when sizes are rounded up, do not count.

    Returns:
        float32, (height, width) of the output.
    """
    if not step.count_include_pad or ends(step, before, after) == list(step.padding):
        return None
    down, right = (
        kernel / np.minimum(kernel, size + 2 * pad - stride * np.arange(out))
        for kernel, size, pad, stride, out in zip(
            step.kernel, before, step.padding, step.stride, after, strict=True
        )
    )
    return np.outer(down, right).astype(np.float32)
