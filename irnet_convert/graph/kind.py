"""Whether two modules are of one kind: alike in everything that tracing their forwards can have read."""

from __future__ import annotations

from typing import Any

from torch import nn


def kind_of(module: nn.Module, passed: set[str]) -> object | None:
    """A key that two modules share only if their forwards are traced into the same graphs.

    A traced forward can have read the module's class, its attributes, the shapes of its tensors, and the
    same of everything below it. None where an attribute is not plain, so that nothing can be said.
    """
    facts = _facts(module)
    return None if facts is None else (repr(facts), type(module), tuple(sorted(passed)))


def _facts(module: nn.Module) -> list[Any] | None:
    plain = {k: v for k, v in vars(module).items() if k not in _MODULE_STATE}
    if not all(_is_plain(v) for v in plain.values()):
        return None
    tensors = {**module._parameters, **module._buffers}
    shapes = [(name, t if t is None else tuple(t.shape)) for name, t in tensors.items()]
    below = [(name, type(c), _facts(c)) for name, c in module._modules.items() if c is not None]
    if any(facts is None for *_, facts in below):
        return None
    return [sorted(plain.items()), shapes, below]


_MODULE_STATE = set(vars(nn.Module())) - {"training"}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
