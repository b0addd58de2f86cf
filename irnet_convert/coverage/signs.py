"""Values that cannot be negative, by the autograd graph: the second opinion on ``graph.signs``.

It knows fewer operators, and what it does not know counts as signed: what it reports is certain.
"""

from __future__ import annotations

from typing import Any

from irnet_convert.coverage.autograd import is_contraction, producers

_NON_NEGATIVE = ("Relu", "Sigmoid", "Hardsigmoid", "Softmax", "Abs", "Exp", "Softplus", "Sqrt", "Rsqrt")

#: Results that are elements, means, sums or maxima of elements of one argument, or keep its sign.
_KEEPS = (
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Clone", "Expand", "Slice", "Select",
    "Unsqueeze", "Squeeze", "Alias", "AsStrided", "Split", "SplitWithSizes", "Unbind", "Chunk", "Roll",
    "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D",
    "MkldnnAdaptiveAvgPool2D", "AdaptiveMaxPool2D", "Mean", "Sum", "Amax", "NativeDropout", "Repeat",
    "UpsampleNearest2D", "UpsampleBilinear2D", "Gelu", "Silu", "Hardswish", "Tanh",
    "LeakyRelu", "Elu", "PixelShuffle", "Index", "Gather", "ToCopy",
)  # fmt: skip

_COMBINES = ("Add", "Mul", "Div", "Minimum", "Maximum", "Cat", "Stack")


def never_negative(node: Any, limit: int = 200) -> bool:
    """Whether the value that autograd's ``node`` made is certainly not negative.

    Args:
        node: a tensor's ``grad_fn``; None (nothing is known) gives False.
        limit: how many nodes to look at.
    """
    stack = [node]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or len(seen) > limit:
            return False
        if node in seen:
            continue
        seen.add(node)
        kind = node.name().removesuffix("Backward0").removesuffix("Backward1")
        if kind in _NON_NEGATIVE or _clamped(node, kind):
            continue
        if kind in _KEEPS:
            stack.append(next(producers(node), None))
        elif kind.startswith("ScaledDotProduct"):  # a convex combination of the third argument's rows
            stack.append(node.next_functions[2][0])
        elif kind in _COMBINES:
            stack.extend(above for above, _ in node.next_functions)
        else:
            return False
    return True


def _clamped(node: Any, kind: str) -> bool:
    low = {"Hardtanh": "_saved_min_val", "Clamp": "_saved_min", "ClampMin": "_saved_min"}.get(kind)
    value = getattr(node, low, None) if low else None
    return isinstance(value, int | float) and value >= 0


def is_pooled(node: Any, limit: int = 12) -> bool:
    """Whether a maximum over windows lies on the way up to the nearest contraction, by first arguments."""
    for _ in range(limit):
        if node is None or is_contraction(node):
            return False
        if "MaxPool" in node.name():
            return True
        node = next(producers(node), None)
    return False
