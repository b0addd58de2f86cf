"""Whether two modules are of one kind: alike in everything that tracing their forwards can have read."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import Any

from torch import nn

from irnet_convert.graph.reads import names_read_by


def kind_of(module: nn.Module, passed: set[str]) -> object | None:
    """A key that two modules share only if their forwards are traced into the same graphs.

    A traced forward can have read the module's class, its attributes, the shapes of its tensors, and the
    same of everything below it. Where its code tells by which names it reads, what has other names does not
    count: the blocks of a network's stages differ in width, and few forwards ask for it.

    Args:
        module: a module.
        passed: names of the forward arguments that callers give.

    Returns:
        The key; None where an attribute is not plain, or the forward is the instance's own, so that nothing
        can be said.
    """
    if "forward" in vars(module):  # somebody's own, which is no other module's
        return None
    facts = _facts_read(module)
    facts = _facts(module) if facts is None else facts
    return None if facts is None else (repr(facts), type(module), tuple(sorted(passed)))


def _facts(module: nn.Module) -> list[Any] | None:
    """All that there is."""
    plain = {k: v for k, v in vars(module).items() if k not in _MODULE_STATE}
    if not all(_is_plain(v) for v in plain.values()):
        return None
    below = [(name, type(c), _facts(c)) for name, c in module._modules.items() if c is not None]
    if any(facts is None for *_, facts in below):
        return None
    return [sorted(plain.items()), _tensors(module, _EXTENTS), below]


def _facts_read(module: nn.Module) -> list[Any] | None:
    """What the code of the module's forward names; None where it may read more."""
    names = names_read_by(type(module))
    if names is None:
        return None
    plain = {k: v for k, v in vars(module).items() if k in names and k not in _MODULE_STATE}
    if not all(_is_plain(v) for v in plain.values()):
        return None
    below = [_facts_of_child(name, child, names) for name, child in module._modules.items()]
    if any(facts is None for facts in below):
        return None
    return ["read", sorted(plain.items()), _tensors(module, names), below]


def _facts_of_child(name: str, child: nn.Module | None, names: frozenset[str]) -> list[Any] | None:
    """What can be seen of a child that is called, asked for its mode or iterated over, and no more.

    All that there is, if it has an attribute of a name that the parent's code reads somewhere: then it may be
    the child's. None where that is not plain.
    """
    if child is None:
        return [name, None]
    own = {*vars(child), *child._parameters, *child._buffers, *child._modules, *_class_names(type(child))}
    if names & (own - {"training"}):
        everything = _facts(child)
        return None if everything is None else [name, type(child), everything]
    if not _is_container(child):
        return [name, type(child), child.training]
    inside = [_facts_of_child(n, c, names) for n, c in child._modules.items()]
    if any(facts is None for facts in inside):
        return None
    return [name, type(child), child.training, _tensors(child, names), inside]


def _tensors(module: nn.Module, names: Set[str]) -> list[Any]:
    """Tensors that a module holds itself, with as much of their shapes as code of these names asks for."""
    held = {**module._parameters, **module._buffers}
    if names & _EXTENTS:
        return [(name, t if t is None else tuple(t.shape)) for name, t in held.items()]
    ranked = bool(names & _RANKS)
    return [(name, t if t is None else t.ndim * ranked) for name, t in held.items()]


@cache
def _class_names(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(dir(kind))


def _is_container(module: nn.Module) -> bool:
    """Whether what it holds is reached without a name: by iterating, by a number, or by a key."""
    return any(hasattr(type(module), special) for special in ("__iter__", "__getitem__"))


_MODULE_STATE = set(vars(nn.Module())) - {"training"}
#: How code asks for the extents of a parameter, which tracing bakes in, and for its rank alone.
_EXTENTS = {"shape", "size", "numel", "nelement", "len"}
_RANKS = {"dim", "ndim", "ndimension"}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
