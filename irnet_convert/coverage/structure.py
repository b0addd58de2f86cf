"""Properties 1 to 4 of one conversion, asked of the two models by means of their own.

Nothing here reads the recording that the plan was made from: layers come from ``modules()``, positions from
autograd's graph, calls from hooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from irnet_convert.coverage.autograd import Run
from irnet_convert.coverage.signs import never_negative
from irnet_convert.graph.nodes import is_layer
from irnet_convert.graph.plan import Plan
from irnet_convert.layers import BinaryLayer, binary_layers


def decisions(original: nn.Module, student: nn.Module, plan: Plan) -> Iterator[str]:
    """Property 1: what is wrong with the plan's list of layers.

    Args:
        original: the model before conversion.
        student: the converted model.
        plan: by which it was converted.
    """
    paths: dict[nn.Module, list[str]] = {}
    for path, module in original.named_modules(remove_duplicate=False):
        if is_layer(module):
            paths.setdefault(module, []).append(path)
    wanted = {found[0]: found for found in paths.values()}
    counts = Counter(d.path for d in plan.decisions)
    yield from (f"{path} has no decision" for path in wanted if not counts[path])
    yield from (f"{path} has {n} decisions" for path, n in counts.items() if n > 1)
    yield from (f"a decision on {path}, which is no layer" for path in counts if path not in wanted)
    for d in plan.decisions:
        if not d.reason.strip():
            yield f"{d.path} is decided without a reason"
        if set(d.aliases) != set(wanted.get(d.path, ())) - {d.path}:
            yield f"{d.path} is shared as {wanted.get(d.path)}, the plan says {d.aliases}"
        for path in (d.path, *d.aliases):
            binary = isinstance(_at(student, path), BinaryLayer)
            if binary != (d.action == "binarize"):
                yield f"{path}: the plan says {d.action}, the model holds {type(_at(student, path)).__name__}"
    planned = {_at(student, d.path) for d in plan.binarized}
    yield from (f"{p} is binary, without a decision" for p, m in binary_layers(student) if m not in planned)


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def positions(plan: Plan, runs: Sequence[Run]) -> Iterator[str]:
    """Property 2: which first and last layers the plan has that the data flow has not, or the other way.

    Several readings of "last" are possible where the layers at the ends of residual branches reach the output
    through additions. Certain is: a last layer reaches the output past no other layer, and one that does and
    feeds no other that does is last.

    Args:
        plan: by which the model was converted.
        runs: of the original, in evaluation mode and, if it can, in training mode.
    """
    seen = set().union(*(r.used for r in runs))
    first = {d.path for d in plan.decisions if "first" in d.positions} & seen
    last = {d.path for d in plan.decisions if "last" in d.positions} & seen
    want_first, want_last, tails = runs[0].first, runs[0].ends, set().union(*(r.tails for r in runs))
    known = runs[0].used
    for later in runs[1:]:  # layers that run in training mode alone: auxiliary heads
        want_first = want_first | (later.first - known)
        want_last = want_last | (later.ends - known)
        known = known | later.used
    may_be_first = set().union(*(r.first for r in runs))
    yield from (f"{p} is a first layer, and not planned as one" for p in sorted(want_first - first))
    yield from (f"{p} is planned as a first layer, and is none" for p in sorted(first - may_be_first))
    yield from (f"{p} is a last layer, and not planned as one" for p in sorted(want_last - last))
    yield from (f"{p} is planned as a last layer, and is none" for p in sorted(last - tails))
    if not last and tails:
        yield "no layer is planned as last"


def sameness(original: nn.Module, student: nn.Module, plan: Plan) -> Iterator[str]:
    """Property 3, the part that needs no run: class and state-dict keys."""
    if type(student) is not type(original):
        yield f"its class was {type(original).__name__} and is {type(student).__name__}"
    before, after = original.state_dict(), student.state_dict()
    added = set(plan.added_keys)
    yield from (f"the key {k} is gone" for k in before.keys() - after.keys())
    yield from (f"the key {k} is new, and the plan does not say so" for k in after.keys() - before - added)
    yield from (f"the plan adds the key {k}, which is not there" for k in added - after.keys())
    yield from (f"the plan adds the key {k}, which was there" for k in added & before.keys())
    if [k for k in after if k not in added] != list(before):
        yield "the order of the keys changed"
    for key in before.keys() & after.keys():
        one, other = before[key], after[key]
        if isinstance(one, Tensor) and (one.shape, one.dtype) != (other.shape, other.dtype):
            yield f"{key} was {tuple(one.shape)} {one.dtype} and is {tuple(other.shape)} {other.dtype}"


def outputs(before: Any, after: Any, *, mode: str, boxes: bool = False) -> Iterator[str]:
    """Property 3, the outputs of two runs: structure, shapes and dtypes.

    Args:
        before: what the original returned.
        after: what the converted model returned.
        mode: for the message.
        boxes: a detector, which returns as many boxes as it finds.
    """
    (one, tree), (other, tree_after) = tree_flatten(before), tree_flatten(after)
    if type(before) is not type(after) or tree != tree_after:
        yield f"the output in {mode} mode was {_short(tree)} and is {_short(tree_after)}"
        return
    for a, b in zip(map(_kind, one, [boxes] * len(one)), map(_kind, other, [boxes] * len(one)), strict=True):
        if a != b:
            yield f"an output in {mode} mode was {a} and is {b}"


def _short(tree: Any) -> str:
    return str(tree).replace("PyTreeSpec", "")[:120]


def _kind(leaf: Any, boxes: bool) -> Any:
    if not isinstance(leaf, Tensor):
        return (
            [type(leaf), *(_kind(v, boxes) for v in vars(leaf).values())] if _is_record(leaf) else type(leaf)
        )
    return tuple(leaf.shape)[1 if boxes and leaf.dim() else 0 :], leaf.dtype


def _is_record(leaf: Any) -> bool:
    return hasattr(leaf, "__dict__") and any(isinstance(v, Tensor) for v in vars(leaf).values())


class Calls:
    """What the binary layers of a converted model received, over one or more runs."""

    def __init__(self, student: nn.Module) -> None:
        self.called: set[str] = set()
        self.one_sided: set[str] = set()
        self._layers = dict(binary_layers(student))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note every call inside the block."""

        def noting(path: str, layer: BinaryLayer) -> Any:
            def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                self.called.add(path)
                if layer.act_bits == 1 and never_negative(args[0].grad_fn):
                    self.one_sided.add(path)

            return note

        handles = [
            layer.operator.register_forward_pre_hook(noting(path, layer))
            for path, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def problems(self) -> Iterator[str]:
        """Property 4: binary layers that were never called, or whose input cannot be negative."""
        yield from (
            f"{path} is binarized and never called" for path in self._layers if path not in self.called
        )
        yield from (f"{path} has an input that cannot be negative" for path in sorted(self.one_sided))


def disconnected(before: Run, after: Run) -> set[str]:
    """Property 5 by data flow: layers that the output depended on, and no longer does."""
    return before.used - after.used
