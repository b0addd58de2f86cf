"""Nested state ↔ JSON beside a flat set of tensors, so that no state needs pickle.

``flatten`` writes tensors as ``{"$tensor": name}``, tuples as ``{"$tuple": [...]}`` and mappings whose keys
are not plain strings as ``{"$items": [[key, value], ...]}``; ``unflatten`` is its inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from irnet_convert.errors import CheckpointError


def flatten(tree: Any, path: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Split a tree into what JSON holds and the tensors in it.

    Args:
        tree: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        path: prefix of the tensors' names.

    Returns:
        The JSON part, and contiguous CPU copies of the tensors by name.

    Raises:
        CheckpointError: the tree holds a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(tree, path, tensors), tensors


def _flatten(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[path] = own_copy(tree)
        return {"$tensor": path}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return [_flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"$tuple": [_flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(tree)]}
    if isinstance(tree, Mapping):
        items = [(key, _flatten(item, f"{path}.{key}", tensors)) for key, item in tree.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
            return dict(items)
        return {"$items": [[_flatten(key, f"{path}.key", tensors), item] for key, item in items]}
    raise CheckpointError(
        f"{path} is a {type(tree).__name__}",
        expected="tensors, numbers, strings, and lists, tuples and mappings of them",
        mend="choose an optimizer whose state is plain data",
    )


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`flatten`.

    Raises:
        CheckpointError: the JSON names a tensor that is not there.
    """
    if isinstance(tree, list):
        return [unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {"$tensor"}:
        if tree["$tensor"] not in tensors:
            raise CheckpointError(
                f"the state names the tensor {tree['$tensor']!r}, which is not there",
                expected="a tensor for every name",
                mend="use an older checkpoint",
            )
        return tensors[tree["$tensor"]]
    if tree.keys() == {"$tuple"}:
        return tuple(unflatten(item, tensors) for item in tree["$tuple"])
    if tree.keys() == {"$items"}:
        return {unflatten(key, tensors): unflatten(item, tensors) for key, item in tree["$items"]}
    return {key: unflatten(item, tensors) for key, item in tree.items()}


def own_copy(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy that shares no memory: what a safetensors file can hold."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
