"""Whether a traced forward does what the forward itself does: both are run, alone, and compared.

A module is run on the arguments that it was recorded with. The modules that it calls are not run again:
they return what they returned in the recording, so that only the forward in question is looked at, in both
modes, at the cost of its own operators.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from irnet_convert.graph.example import Example
from irnet_convert.graph.nodes import Call, Record
from irnet_convert.graph.record import run_recorded
from irnet_convert.graph.recorder import Recorder
from irnet_convert.graph.traced import GraphForward, Graphs


class _Alone(Recorder):
    """Records one module's own forward; what it calls returns what it returned before."""

    def __init__(self, module: nn.Module, training: bool, call: Call, path_of: dict[nn.Module, str]) -> None:
        super().__init__(module, training)
        self.owner = module
        self.before = call
        self.path_in_model = path_of
        self.seen: dict[str, int] = {}

    def any_call(self, path: str, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run the module in question, and nothing that it calls."""
        if module is self.owner:
            return super().any_call(path, call, module, args, kwargs)
        name = self.path_in_model[module]
        ordinal = self.seen.get(name, 0)
        self.seen[name] = ordinal + 1
        result = self.before.returned[name, ordinal]
        given = tree_leaves((args, kwargs))
        self.add_node(
            "call",
            tuple(self.value_of(t) for t in given if isinstance(t, Tensor)),
            tuple(t for t in tree_leaves(result) if isinstance(t, Tensor)),
            tuple(v for v in given if not isinstance(v, Tensor)),
            layer=name,
        )
        return result


def does_the_same(module: nn.Module, graphs: Graphs, call: Call, path_of: dict[nn.Module, str]) -> bool:
    """Whether ``graphs`` do, operator by operator and in both modes, what ``module``'s forward does.

    Args:
        module: the owner of the forward; it is left as it was.
        graphs: its traced graphs, unedited.
        call: its first recorded call.
        path_of: the paths by which ``call`` names the modules that were called.

    Raises:
        Exception: whatever the forward itself raises when it is run alone; then nothing is known.
    """
    forward = None
    for training in (False, True):
        before = _run(module, None, training, call, path_of)
        try:
            forward = forward or GraphForward(module, graphs)
            after = _run(module, forward, training, call, path_of)
        except Exception:  # a forward that runs, and a graph that does not
            return False
        if what_happened(before, "") != what_happened(after, ""):
            return False
    return True


def _run(
    module: nn.Module, forward: GraphForward | None, training: bool, call: Call, path_of: dict[nn.Module, str]
) -> Record:
    alone = _shallow_on_meta(module)
    alone.training = training
    if forward is not None:
        alone.forward = forward.bound_to(alone)
    args, kwargs = tree_map(lambda leaf: leaf, (call.args, call.kwargs))
    paths = {child: path_of[child] for child in module.modules() if child is not module}
    return run_recorded(_Alone(alone, training, call, paths), alone, Example(args=args, kwargs=kwargs))


def _shallow_on_meta(module: nn.Module) -> nn.Module:
    """The module with its own tensors on the meta device; its children are the children themselves."""
    twin = copy.copy(module)
    vars(twin).update(
        {
            name: copy.copy(value)
            for name, value in vars(module).items()
            if name in ("_parameters", "_buffers", "_modules")
        }
    )
    for held in (twin._parameters, twin._buffers):
        for name, tensor in held.items():
            if tensor is not None and not tensor.is_meta:
                held[name] = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)  # pyright: ignore[reportArgumentType]
    return twin


def what_happened(rec: Record, owner: str) -> list[tuple[object, ...]]:
    """What ran inside ``owner``: operators, their plain arguments, which values they read, and shapes.

    Values go by the order in which they are first met, parameters by name, so that two runs compare.
    """
    number: dict[object, int] = {}

    def known(value: int) -> object:
        return rec.params.get(value) or number.setdefault(value, len(number))

    return [
        (n.op, n.layer, tuple(known(v) for v in n.inputs), repr(n.scalars),
         tuple((known(v), rec.shapes[v]) for v in n.outputs))
        for n in rec.nodes
        if any(frame.path == owner for frame in n.frames)
    ]  # fmt: skip
