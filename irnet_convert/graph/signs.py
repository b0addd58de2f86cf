"""Which values of a recorded run cannot be negative, and which nodes make them so."""

from __future__ import annotations

from math import prod

from irnet_convert.graph.ops import COMBINES, DROP, KEEPS_SIGN, NON_NEGATIVE, POOL, REARRANGE, RESAMPLE
from irnet_convert.graph.record import Node, Record


def is_relu(node: Node) -> bool:
    """A ReLU or ReLU6 in any spelling: these become Hardtanh where a binarized layer is fed."""
    if node.op in ("relu", "relu6"):
        return True
    return node.op == "hardtanh" and node.scalars[0] == 0 and node.scalars[1] > 0


def never_negative(
    rec: Record, changed: frozenset[int] | set[int] = frozenset()
) -> dict[int, frozenset[int]]:
    """Values that cannot be negative, each with the nodes that make it so.

    A learnable number, as in StarReLU's scale·relu(x)² + bias, counts for nothing: it begins as 1 or 0, so
    that the sign behind it begins as a constant, and there is one of it for all values.

    Args:
        rec: the record.
        changed: indices of ReLU nodes to be taken as Hardtanh, that is, as signed.

    Returns:
        value id → indices of the source nodes. A value that is absent can be negative.
    """
    found: dict[int, frozenset[int]] = {}
    for node in rec.nodes:
        if node.layer is not None:
            continue
        sources = _sources(rec, node, found, changed)
        if sources is not None:
            found.update(dict.fromkeys(node.outputs, sources))
    return found


def _sources(
    rec: Record, node: Node, found: dict[int, frozenset[int]], changed: frozenset[int] | set[int]
) -> frozenset[int] | None:
    """The nodes that make ``node``'s result non-negative, or None if it can be negative."""
    op = node.op
    inputs = [found.get(v) for v in node.inputs]
    if is_relu(node) and node.index in changed:
        return None
    if op in NON_NEGATIVE or _bounded_below(node):
        return frozenset([node.index])
    if not inputs:
        return None
    numbers = _numbers(node)
    if op in ("max", "min") and len(inputs) > 1:
        op = "maximum" if op == "max" else "minimum"
    if op in ("cat", "stack", "maximum", "alias"):
        # Of the parts of a concatenation one is enough: the signs of that part would be constant. An alias
        # joins two writes into one storage, so it is made of parts as well.
        some = [s for s in inputs if s is not None]
        return frozenset().union(*some) if some else None
    if (
        op == "scaled_dot_product_attention"
    ):  # (query, key, value, ...): weights that add up to 1, times value
        return inputs[2]
    if op in COMBINES:
        if op in ("add", "mul"):
            inputs = [s for s, v in zip(inputs, node.inputs, strict=True) if not _is_learnable_number(rec, v)]
        return _all_of(inputs) if inputs and all(n >= 0 for n in numbers) else None
    if op == "where":
        return _all_of(inputs[1:]) if len(inputs) > 1 and all(n >= 0 for n in numbers) else None
    if op == "copy":  # (destination, source)
        return inputs[-1]
    return inputs[0] if _passes_on(node, numbers) else None


def _is_learnable_number(rec: Record, value: int) -> bool:
    return value in rec.params and prod(rec.shapes[value]) == 1


def _all_of(inputs: list[frozenset[int] | None]) -> frozenset[int] | None:
    known = [s for s in inputs if s is not None]
    return frozenset().union(*known) if len(known) == len(inputs) else None


def _numbers(node: Node) -> list[float]:
    return [s for s in node.scalars if isinstance(s, int | float) and not isinstance(s, bool)]


def _passes_on(node: Node, numbers: list[float]) -> bool:
    """Whether the result cannot be negative if the first argument cannot."""
    op = node.op
    if op in ("hardtanh", "clamp", "clip", "clamp_max"):
        high = next(iter(node.scalars[-1:]), None)
        return len(node.inputs) == 1 and not (isinstance(high, int | float) and high < 0)
    if op in ("pad", "constant_pad_nd", "masked_fill"):
        return all(n >= 0 for n in numbers)
    if op.startswith(RESAMPLE):
        return "bicubic" not in op and not (op.startswith("grid_sampler") and numbers[:1] == [2])
    # alpha_dropout drops to a negative value.
    return op in REARRANGE | POOL | KEEPS_SIGN | DROP - {"alpha_dropout"} or op in ("pow", "clamp_min")


def _bounded_below(node: Node) -> bool:
    """A clamp, threshold or even power whose bounds make every result non-negative."""
    first = next(iter(node.scalars), None)
    if not isinstance(first, int | float):
        return False
    if node.op in ("clamp", "clip", "clamp_min", "hardtanh"):
        high = node.scalars[1] if len(node.scalars) > 1 else None
        return first >= 0 and (high is None or high >= 0)
    if node.op == "threshold":  # (limit, value): x where x > limit, else value
        return first >= 0 and node.scalars[1] >= 0
    return node.op == "pow" and len(node.inputs) == 1 and first % 2 == 0
