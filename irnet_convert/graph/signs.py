"""Which values of a recorded run cannot be negative, and which nodes make them so."""

from __future__ import annotations

from irnet_convert.graph.ops import DROP, NON_NEGATIVE, POOL, REARRANGE, RESAMPLE
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
    op, own = node.op, frozenset([node.index])
    inputs = [found.get(v) for v in node.inputs]
    numbers = [s for s in node.scalars if isinstance(s, int | float) and not isinstance(s, bool)]
    if is_relu(node):
        return None if node.index in changed else own
    if op in NON_NEGATIVE or _clamps_at_zero(node) or (op == "pow" and numbers and numbers[0] % 2 == 0):
        return own
    if op in REARRANGE | DROP | POOL or op.startswith(RESAMPLE):
        # An alias joins two writes into one storage: one part that cannot be negative is enough.
        return next((s for s in inputs if s is not None), None) if op == "alias" else (inputs or [None])[0]
    if op in ("cat", "stack", "maximum"):
        some = [s for s in inputs if s is not None]
        return frozenset().union(*some) if some else None
    if op in ("pad", "constant_pad_nd", "copy"):
        return inputs[0] if inputs else None
    if op in ("add", "mul", "minimum", "div"):
        if any(s is None for s in inputs) or not inputs or any(n < 0 for n in numbers):
            return None
        return frozenset().union(*(s for s in inputs if s is not None))
    return None


def _clamps_at_zero(node: Node) -> bool:
    low = node.scalars[0] if node.scalars else None
    return node.op in ("clamp", "clip", "clamp_min", "hardtanh") and isinstance(low, int | float) and low >= 0
