"""What all rewrites share: their findings, and finding nodes of a traced graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx, nn

from irnet_convert.graph.plan import Edit


@dataclass(kw_only=True)
class Findings:
    """What a rewrite's ``collect`` returns.

    Attributes:
        edits: what to do.
        changed: per recording, indices of the ReLU nodes that become signed.
        blocked: layer path → why it cannot be binarized after all.
        notes: what could not be done, for the reader of the plan.
    """

    edits: list[Edit] = field(default_factory=list)
    changed: list[set[int]] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def calls_of(graph: fx.Graph, owner: nn.Module, module: nn.Module) -> list[fx.Node]:
    """The nodes of ``owner``'s graph that call ``module``, under whatever name, in order."""
    return [n for n in graph.nodes if n.op == "call_module" and owner.get_submodule(str(n.target)) is module]


def nth_call(graph: fx.Graph, owner: nn.Module, module: nn.Module, ordinal: int) -> fx.Node | None:
    """The ``ordinal``-th of :func:`calls_of`, or None."""
    found = calls_of(graph, owner, module)
    return found[ordinal] if ordinal < len(found) else None


def node_args(node: fx.Node) -> list[fx.Node]:
    """The positional arguments that are nodes."""
    return [a for a in node.args if isinstance(a, fx.Node)]


def sole_user(node: fx.Node) -> fx.Node | None:
    """The only user of ``node``, or None if there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None
