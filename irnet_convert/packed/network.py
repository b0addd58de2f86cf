"""The graph of a whole packed network: regions (programs) and the PyTorch operators between them.

Plain data, strict JSON, versioned, as programs are (``steps.py``). Nodes are in execution order, and each
reads only inputs, constants and nodes before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from irnet_convert.packed.strict import malformed, read_json, write_json

#: Version of the graph's meaning. A reader refuses every other.
VERSION = 1

RealDType = Literal[
    "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"
]


# -- arguments ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InputArg:
    """An input of the network."""

    kind: Literal["input"] = "input"
    index: int


@dataclass(frozen=True, kw_only=True)
class NodeArg:
    """What a node returned: its ``item``-th result, or the whole."""

    kind: Literal["node"] = "node"
    node: int
    item: int | None = None


@dataclass(frozen=True, kw_only=True)
class ConstantArg:
    """A constant of the network's own table."""

    kind: Literal["constant"] = "constant"
    index: int


@dataclass(frozen=True, kw_only=True)
class DTypeArg:
    """A torch.dtype."""

    kind: Literal["dtype"] = "dtype"
    name: RealDType


@dataclass(frozen=True, kw_only=True)
class DeviceArg:
    """The device that the network is on."""

    kind: Literal["device"] = "device"


@dataclass(frozen=True, kw_only=True)
class LayoutArg:
    """torch.strided, or a memory format."""

    kind: Literal["layout"] = "layout"
    name: Literal["strided", "contiguous_format", "preserve_format", "channels_last"]


@dataclass(frozen=True, kw_only=True)
class FloatArg:
    """A float that JSON has no number for."""

    kind: Literal["float"] = "float"
    value: Literal["inf", "-inf", "nan"]


@dataclass(frozen=True, kw_only=True)
class ListArg:
    """A list or tuple of arguments."""

    kind: Literal["list"] = "list"
    items: tuple[Arg, ...]
    is_tuple: bool = False


@dataclass(frozen=True, kw_only=True)
class DictArg:
    """A dict of arguments; only what a network returns may be one."""

    kind: Literal["dict"] = "dict"
    keys: tuple[str, ...]
    items: tuple[Arg, ...]


Arg = (
    InputArg
    | NodeArg
    | ConstantArg
    | DTypeArg
    | DeviceArg
    | LayoutArg
    | FloatArg
    | ListArg
    | DictArg
    | bool
    | int
    | float
    | str
    | None
)


# -- nodes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RegionNode:
    """One call of a program. It returns a list, one tensor for each output of the program."""

    kind: Literal["region"] = "region"
    program: int
    args: tuple[Arg, ...]


@dataclass(frozen=True, kw_only=True)
class Keyword:
    """One keyword argument."""

    name: str
    value: Arg


@dataclass(frozen=True, kw_only=True)
class OpNode:
    """One call of an operator in the table of ``operators.py``."""

    kind: Literal["op"] = "op"
    op: str
    args: tuple[Arg, ...] = ()
    kwargs: tuple[Keyword, ...] = ()


Node = RegionNode | OpNode


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of the network.

    Attributes:
        name: of the model's argument.
        shape: sizes; null where the network takes any.
        dtype: "float32" stands for float32, float16 and bfloat16; others are exact.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: RealDType = "float32"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One constant of the PyTorch parts.

    Attributes:
        name: the path of the parameter or buffer that it was; unique in the network.
        dtype: in storage. float16 and bfloat16 are float32 in memory.
        shape: its shape; () for a scalar.
    """

    name: str
    dtype: RealDType
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A packed network without its programs and tensors.

    Attributes:
        version: :data:`VERSION`.
        programs: number of programs that belong to it.
        inputs: in the order of the model's arguments.
        constants: of the PyTorch parts; those of the programs are in the programs.
        nodes: in execution order.
        output: what a call returns.
    """

    version: int = VERSION
    programs: int
    inputs: tuple[InputSpec, ...]
    constants: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    output: Arg

    def to_json(self) -> str:
        """Compact JSON; :func:`parse_network` reads it."""
        return write_json(self)


#: Bounds far above any network.
_MOST = 1 << 16
_MOST_BYTES = 1 << 36
_DEEPEST = 8


def parse_network(text: str) -> Network:
    """A validated network from its JSON.

    Raises:
        ProgramError: malformed, of another version, or contradicting itself.
    """
    network = read_json(Network, text, what="network")
    check_network(network)
    return network


def check_network(network: Network) -> None:
    """Validate a network.

    Raises:
        ProgramError: an unknown operator, a reference to what does not exist yet, or absurd sizes.
    """
    from irnet_convert.packed.operators import check_keywords, check_operator

    if network.version != VERSION:
        raise malformed(f"a network of version {network.version}", f"version {VERSION}")
    _check_tables(network)
    for number, node in enumerate(network.nodes):
        where = f"nodes[{number}]"
        if isinstance(node, OpNode):
            check_operator(node.op, where)
            check_keywords(node.op, [k.name for k in node.kwargs], where)
        elif not 0 <= node.program < network.programs:
            raise malformed(f"{where} calls program {node.program}", f"0 to {network.programs - 1}")
        for arg in args_of(node):
            _check_arg(arg, number, network, where)
    _check_arg(network.output, len(network.nodes), network, "output")
    _check_all_used(network)


def _check_all_used(network: Network) -> None:
    """A module keeps only the tensors that its graph reads; a table may name no others."""
    programs = {node.program for node in network.nodes if isinstance(node, RegionNode)}
    if not network.programs or len(programs) != network.programs:
        raise malformed(
            f"{network.programs} programs, {len(programs)} of them called", "at least one, all called"
        )
    args = [network.output, *(arg for node in network.nodes for arg in args_of(node))]
    read = {leaf.index for arg in args for leaf in leaves_of(arg) if isinstance(leaf, ConstantArg)}
    if len(read) != len(network.constants):
        raise malformed(f"{len(network.constants)} constants, {len(read)} of them read", "all read")


def whole_region(network: Network, results: int) -> RegionNode | None:
    """The region that is the whole network: it takes inputs alone, and the network returns what it returns.

    Args:
        network: validated.
        results: how many tensors the program of its first node returns.

    Returns:
        None where there are other nodes, or results in another order.
    """
    node = network.nodes[0] if len(network.nodes) == 1 else None
    if not isinstance(node, RegionNode) or not all(isinstance(arg, InputArg) for arg in node.args):
        return None
    output = network.output
    items: list[Arg] = list(output.items) if isinstance(output, ListArg) else [output]
    found = [a.item if isinstance(a, NodeArg) else None for a in items]
    return node if found == list(range(results)) else None


def args_of(node: Node) -> tuple[Arg, ...]:
    """The arguments of a node, keyword arguments last."""
    return node.args + (tuple(k.value for k in node.kwargs) if isinstance(node, OpNode) else ())


def leaves_of(arg: Arg) -> Iterator[Arg]:
    """What is not a list or dict in an argument."""
    if isinstance(arg, ListArg | DictArg):
        for item in arg.items:
            yield from leaves_of(item)
    else:
        yield arg


def _check_tables(network: Network) -> None:
    for name in ("inputs", "constants", "nodes"):
        if len(getattr(network, name)) > _MOST:
            raise malformed(f"{len(getattr(network, name))} {name}", f"at most {_MOST}")
    if not network.inputs or not 0 <= network.programs <= _MOST:
        raise malformed(f"{len(network.inputs)} inputs, {network.programs} programs", "at least one input")
    for spec in (*network.inputs, *network.constants):
        if len(spec.shape) > 8 or any(s is not None and not 0 <= s < 1 << 32 for s in spec.shape):
            raise malformed(f"{spec.name} of shape {list(spec.shape)}", "8 dimensions of sizes below 2^32")
    for table in (network.inputs, network.constants):
        if len({s.name for s in table}) != len(table):
            raise malformed("two inputs or constants of one name", "unique names")
    if sum(math.prod(s.shape) for s in network.constants) > _MOST_BYTES:
        raise malformed("constants of absurd size", f"at most {_MOST_BYTES} elements")


def _check_arg(arg: Arg, before: int, network: Network, where: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise malformed(f"{where} has lists in lists, deeper than {_DEEPEST}", "less")
    if isinstance(arg, ListArg | DictArg):
        if isinstance(arg, DictArg) and (where != "output" or len(arg.keys) != len(arg.items)):
            raise malformed(f"{where} has a dict", "a dict only as output, a key for each item")
        for item in arg.items:
            _check_arg(item, before, network, where, depth + 1)
        return
    bound = None
    if isinstance(arg, InputArg):
        bound = (arg.index, len(network.inputs))
    elif isinstance(arg, ConstantArg):
        bound = (arg.index, len(network.constants))
    elif isinstance(arg, NodeArg):
        bound = (arg.node, before)
        if arg.item is not None and not 0 <= arg.item < _MOST:
            raise malformed(f"{where} reads item {arg.item}", f"0 to {_MOST}")
    if bound is not None and not 0 <= bound[0] < bound[1]:
        raise malformed(f"{where} reads {arg}", f"a number below {bound[1]}")
