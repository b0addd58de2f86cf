"""A binarized model as one functional graph: ``torch.export`` of an evaluation-mode copy.

torch.export gives what a recorder of our own would have to be taught: in-place operators made functional,
sizes as symbols (so that batch and image size stay free), parameters told apart from inputs.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map

from irnet_convert.errors import PackError
from irnet_convert.packed.captured import capture_layers
from irnet_convert.packed.functional import make_functional

#: What may be free, tried in this order: "size" (batch, height and width), "batch", or nothing.
FREEDOMS = ("size", "batch", "none")


@dataclass(frozen=True, kw_only=True)
class Captured:
    """An exported model.

    Attributes:
        graph: functional; placeholders for inputs and tensors.
        inputs: names of the model's arguments and their placeholders.
        tensors: placeholder → path in the model and value, of parameters, buffers and constants.
        outputs: the nodes that are returned, flat.
        out_spec: their structure.
    """

    graph: fx.Graph
    inputs: list[tuple[str, fx.Node]]
    tensors: dict[fx.Node, tuple[str, Tensor]]
    outputs: list[Any]
    out_spec: TreeSpec


def prepare(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy to export: evaluation mode, float32, CPU, binary layers captured.

    Returns:
        The copy, and notes for the report.

    Raises:
        PackError: it cannot be copied, or a layer cannot be packed.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # a module's __deepcopy__ may raise anything
        raise PackError(
            f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}",
            expected="a model that copy.deepcopy can copy",
            mend="remove hooks or attributes that cannot be copied",
        ) from error
    twin = twin.cpu().float().eval().requires_grad_(False)
    with torch.no_grad():
        return twin, capture_layers(twin)


def capture(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], freedom: str) -> Captured:
    """Export a prepared model.

    Args:
        twin: from :func:`prepare`.
        args: example inputs, on the CPU in float32, a batch of at least 2.
        kwargs: by name.
        freedom: one of :data:`FREEDOMS`.

    Raises:
        PackError: torch.export cannot follow the model; the message holds its own error.
    """
    names = _names(twin, args, kwargs)
    free = tree_map(lambda leaf: _free(leaf, freedom), (args, kwargs))
    shapes = {name: value for name, value in zip(("args", "kwargs"), free, strict=True) if value}
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(_Root(twin), args, kwargs, dynamic_shapes=shapes, strict=False)
            if not make_functional(program.graph):
                program = program.run_decompositions({})
        except PackError:
            raise
        except Exception as error:  # torch.export lets through whatever the model raises
            raise _not_exported(twin, error) from error
    if freedom == "size":
        _check_any_size(twin, program)
    return _captured(program, names)


#: Conditions of a model's own: a remainder, or a size compared with a number. PyTorch itself notes of sizes
#: that they are not 0, 1 or each other's factor, and equal sizes are checked by each call anyway.
_BRANCH = re.compile(r"%|<|>=? (?![012]( |$|\)))|!= (?![01]( |$|\)))\d")
#: A least size above this is a branch of the model's own, and no kernel that must fit.
_LEAST = 32


def _check_any_size(twin: nn.Module, program: torch.export.ExportedProgram) -> None:
    """Refuse a graph that holds for some sizes of the image alone."""
    guards = [g for g in getattr(program, "_guards_code", ()) if _BRANCH.search(g)]
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower > _LEAST or bounds.upper < (1 << 31):
            guards.append(f"{bounds.lower} <= {symbol} <= {bounds.upper}")
    if guards:
        raise PackError(
            f"what {type(twin).__name__} computes depends on the size of its input: {guards[0]}",
            expected="the same operators for every size",
            mend="it is packed for the size of its example_input alone",
        )


class _Root(nn.Module):
    """Calls the model. Export reads the code of the root's forward, and a rewritten forward has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _names(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """The arguments' names in the order of the inputs; only plain tensors can be inputs."""
    for value in (*args, *kwargs.values()):
        if not isinstance(value, Tensor):
            raise PackError(
                f"{type(twin).__name__} takes a {type(value).__name__}",
                expected="a model whose inputs are tensors",
                mend="wrap it in a module whose forward takes tensors alone",
            )
    parameters = [
        p.name for p in inspect.signature(twin.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    spare = [f"input{i}" for i in range(len(parameters), len(args))]
    return [*(parameters + spare)[: len(args)], *kwargs]


def _free(leaf: Tensor, freedom: str) -> dict[int, Any] | None:
    auto = torch.export.Dim.AUTO
    free = {"none": (), "batch": (0,), "size": (0, 2, 3) if leaf.dim() == 4 else (0,)}[freedom]
    return {axis: auto for axis in free if axis < leaf.dim()} or None


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about the model's own code or about sizes that are hard to solve for, and attention in
    operators instead of one fused call.
    """
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        logger.setLevel(level)


def _not_exported(twin: nn.Module, error: Exception) -> PackError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind, first = type(error).__name__, lines[0] if lines else ""
    own: BaseException | None = error
    while own is not None and not isinstance(own, PackError):
        own = own.__cause__
    if isinstance(own, PackError):
        return own
    return PackError(
        f"torch.export cannot follow {type(twin).__name__}: {kind}: {first}",
        expected="a forward whose steps do not depend on the values of its input",
        mend="pass an example_input of the size that the model takes, or rewrite the part of the forward "
        "that the error names",
    )


def _captured(program: torch.export.ExportedProgram, names: list[str]) -> Captured:
    by_name = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    inputs, tensors = [], {}
    for spec in program.graph_signature.input_specs:
        node = by_name.get(getattr(spec.arg, "name", ""))
        if spec.kind == InputKind.USER_INPUT:
            assert node is not None
            inputs.append((names[len(inputs)], node))
        elif node is not None and spec.target is not None:
            held = {**program.state_dict, **program.constants}[spec.target]
            if isinstance(held, Tensor):
                tensors[node] = (spec.target.removeprefix("model."), held.detach())
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    outputs = []
    for spec, value in zip(program.graph_signature.output_specs, results, strict=True):
        if spec.kind == OutputKind.USER_OUTPUT:
            outputs.append(value)
        else:
            raise PackError(
                f"the model writes to {spec.target} in evaluation mode",
                expected="a model that keeps nothing between two calls",
                mend="remove the update of that buffer in evaluation mode",
            )
    _, spec = tree_flatten(None)
    out_spec = program.call_spec.out_spec
    return Captured(
        graph=program.graph, inputs=inputs, tensors=tensors, outputs=outputs,
        out_spec=out_spec if out_spec is not None else spec,
    )  # fmt: skip
