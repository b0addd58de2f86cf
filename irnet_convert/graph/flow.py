"""Questions about a recorded data flow: what is first, last, a gate, a downsample, normalised.

Every function takes a Record and looks only at values and nodes, never at names of modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from torch import nn

from irnet_convert.graph.ops import DROP, NORMS, POOL, REARRANGE, SQUEEZE, TRUNK, WEIGHTED
from irnet_convert.graph.record import Node, Record


def is_barrier(node: Node, rec: Record) -> bool:
    """Whether the node is a layer call or an operator that applies a parameter as a layer would.

    A product with a buffer is a fixed transform, such as CSATv2's cosine transform of the image.
    """
    learned = (v in rec.params and rec.params[v] not in rec.buffers for v in node.inputs)
    return node.layer is not None or (node.op in WEIGHTED and any(learned))


# -- first and last ---------------------------------------------------------------------------------


def reached_from_input(rec: Record) -> set[int]:
    """Values that depend on the model's input."""
    return _spread_forward(rec, lambda node: True)


def _spread_forward(rec: Record, through: Callable[[Node], bool]) -> set[int]:
    reached = set(rec.inputs)
    for node in rec.nodes:
        if through(node) and not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
    return reached


def first_layers(rec: Record) -> set[str]:
    """Layers with no other layer between them and the model's input."""
    fresh = _spread_forward(rec, lambda node: not is_barrier(node, rec))
    return {node.layer for node in rec.nodes if node.layer is not None and not fresh.isdisjoint(node.inputs)}


def last_layers(rec: Record) -> set[str]:
    """Layers with no other layer between them and an output; of a headless model the last executed.

    In a headless residual network every branch reaches the output through the trunk's additions. What
    tells these from true heads: one is upstream of another *and* its own way to the output passes only
    operators that a trunk is made of. (A detector's proposal head is upstream of its box head too, but
    its way to the output passes selection by score.)
    """
    heads = _tails(rec, lambda node: True)
    trunk = {n.index for n in _tails(rec, lambda node: node.op in TRUNK)}
    strict = {n.index for n in _tails(rec, lambda node: True, without=TRUNK)}
    inside = [
        n for n in heads if n.index in trunk and n.index not in strict and _feeds_another(rec, n, heads)
    ]
    if not inside:
        return {n.layer for n in heads if n.layer}
    dropped = {n.index for n in inside}
    kept = [n for n in heads if n.index not in dropped]
    # True heads beside the trunk, and its ends: two where the last block adds two branches.
    return {n.layer for n in kept if n.layer and (n.index not in trunk or not _feeds_another(rec, n, heads))}


def leading_nowhere(rec: Record) -> set[str]:
    """Layers that were called and that no output depends on."""
    wanted = set(rec.outputs)
    for node in reversed(rec.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
    return {p for p, calls in rec.calls.items() if all(wanted.isdisjoint(c.outputs) for c in calls)}


def _tails(rec: Record, through: Callable[[Node], bool], without: Iterable[str] = ()) -> list[Node]:
    """Layer calls whose output reaches the model's output through nodes that ``through`` admits.

    With ``without``, only those with a way that holds at least one operator outside that set.
    """
    special = set(without)
    plain = set(rec.outputs)  # values with any admitted way to the output
    marked: set[int] = set()  # values with a way that holds an operator outside ``without``
    found = []
    for node in reversed(rec.nodes):
        goes = not plain.isdisjoint(node.outputs)
        goes_marked = not marked.isdisjoint(node.outputs)
        if is_barrier(node, rec):
            if node.layer is not None and (goes_marked if special else goes):
                found.append(node)
            continue
        if goes and through(node):
            plain.update(node.inputs)
            if special and node.op not in special:
                marked.update(node.inputs)
        if goes_marked and through(node):
            marked.update(node.inputs)
    return found


def _feeds_another(rec: Record, node: Node, others: list[Node]) -> bool:
    downstream = set(node.outputs)
    for later in rec.nodes[node.index + 1 :]:
        if not downstream.isdisjoint(later.inputs):
            downstream.update(later.outputs)
    return any(
        o.index != node.index and o.layer != node.layer and not downstream.isdisjoint(o.inputs)
        for o in others
    )


# -- roles --------------------------------------------------------------------------------------------


def constant_fed(rec: Record) -> set[str]:
    """Layers whose input does not depend on the model's input (position networks)."""
    alive = reached_from_input(rec)
    return {layer for layer, calls in rec.calls.items() if all(alive.isdisjoint(c.inputs) for c in calls)}


def squeeze_excite(rec: Record) -> set[str]:
    """Layers of a gate: from a reduction over positions, through layers, into a broadcast product."""
    alive = reached_from_input(rec)
    found: set[str] = set()
    for node in rec.nodes:
        if node.op != "mul" or len(node.inputs) != 2:
            continue
        # A gate may be expanded to the size of what it multiplies before it does (ECA).
        gate, target = sorted((_unexpanded(rec, v) for v in node.inputs), key=lambda v: prod(rec.shapes[v]))
        if gate in alive and target in alive and prod(rec.shapes[gate]) < prod(rec.shapes[target]):
            layers = _back_to_squeeze(rec, gate)
            found |= layers or set()
    return found


def _unexpanded(rec: Record, value: int) -> int:
    while (node := rec.producer.get(value)) is not None and node.op in ("expand", "expand_as"):
        value = node.inputs[0]
    return value


def _back_to_squeeze(rec: Record, gate: int, limit: int = 64) -> set[str] | None:
    """Layers between ``gate`` and the reductions above it; None if some way up meets no reduction."""
    layers: set[str] = set()
    queue, seen = [gate], set()
    while queue:
        value = queue.pop()
        if value in seen or value in rec.params:
            continue
        seen.add(value)
        node = rec.producer.get(value)
        if node is None:
            if value in rec.inputs:
                return None
            continue
        if len(seen) > limit:
            return None
        if node.layer is not None:
            layers.add(node.layer)
        elif node.op in SQUEEZE:
            continue
        queue.extend(node.inputs)
    return layers


def downsamples(rec: Record, layers: dict[str, nn.Module]) -> set[str]:
    """1×1 convolutions on the skip operand of an addition, with no other convolution on that path.

    The skip operand is the one whose way back to the fork holds a single layer while the other holds
    at least two: parallel branches of one layer each (RepVGG) are no skip.
    """
    found: set[str] = set()
    for node in rec.nodes:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for skip, main in (node.inputs, node.inputs[::-1]):
            call = _nearest_layer(rec, skip)
            if call is None or call.layer is None or not _is_pointwise(layers[call.layer]):
                continue
            fork = _single_path_up(rec, call.inputs[0])
            if (_layers_down_to(rec, main, fork, call) or 0) >= 2:
                found.add(call.layer)
    return found


def _is_pointwise(layer: nn.Module) -> bool:
    kernel = getattr(layer, "kernel_size", None)
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and all(k == 1 for k in kernel or (0,))


def _main_input(rec: Record, node: Node) -> int | None:
    """The one input that is no parameter and comes from somewhere, if there is just one."""
    real = [
        v
        for v in dict.fromkeys(node.inputs)
        if v not in rec.params and (v in rec.producer or v in rec.inputs)
    ]
    return real[0] if len(real) == 1 else None


def _nearest_layer(rec: Record, value: int) -> Node | None:
    while (node := rec.producer.get(value)) is not None:
        if node.layer is not None:
            return node
        above = _main_input(rec, node)
        if above is None:
            return None
        value = above
    return None


def _single_path_up(rec: Record, value: int) -> set[int]:
    """``value`` and what it was made of by pools, norms and the like, up to the next layer or addition."""
    path = {value}
    while (node := rec.producer.get(value)) is not None and node.layer is None:
        above = _main_input(rec, node)
        if above is None:
            break
        path.add(above)
        value = above
    return path


def _layers_down_to(rec: Record, value: int, fork: set[int], avoid: Node, limit: int = 200) -> int | None:
    """The least number of layers on a way from ``value`` up to one of ``fork``, or None if there is none.

    The way must not lead through ``avoid``: the skip's own convolution. (In a linear bottleneck the skip
    operand is the previous block's 1×1 projection, and the main path hangs below it.)
    """
    best: dict[int, int] = {value: 0}
    queue = [value]
    while queue and len(best) < limit:
        queue.sort(key=best.__getitem__, reverse=True)
        value = queue.pop()
        if value in fork:
            return best[value]
        node = rec.producer.get(value)
        if node is None or node is avoid:
            continue
        cost = best[value] + (node.layer is not None)
        for above in node.inputs:
            if above not in rec.params and cost < best.get(above, cost + 1):
                best[above] = cost
                queue.append(above)
    return None


# -- normalisation --------------------------------------------------------------------------------------


def without_norm_after(rec: Record) -> set[str]:
    """Layers whose output is used by something other than a normalisation.

    Rearrangement, dropout, pooling and concatenation may lie between. The scale that binarization
    removes from such a layer's weights is restored by nobody, so it needs a learnable one.
    """
    found = set()
    for layer, calls in rec.calls.items():
        if not all(_normalised(rec, value) for call in calls for value in call.outputs):
            found.add(layer)
    return found


def _normalised(rec: Record, value: int) -> bool:
    queue, seen = [value], set()
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in rec.outputs:
            return False
        for node in rec.consumers.get(value, ()):
            if node.op in NORMS:
                continue
            if node.op in REARRANGE | DROP | POOL | {"cat", "stack"}:
                queue.extend(node.outputs)
            else:
                return False
    return True
