"""Which names a forward's code can have read: what decides whether two modules trace into the same graph.

Python reads an attribute by a name that stands in the code, unless the code builds the name as a string for
``getattr`` and its like. So the attributes named in a forward, in the methods of its class and in the
functions that it calls bound what it can have asked of its module and of the modules inside.
"""

from __future__ import annotations

import dis
from functools import cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

#: What reads attributes by names which need not stand in the code, or runs other code.
_BY_STRING = {"getattr", "hasattr", "setattr", "delattr", "vars", "dir", "eval", "exec", "compile", "globals",
              "locals", "__import__", "attrgetter", "methodcaller", "format", "format_map"}  # fmt: skip
#: Operations of Python that read attributes by names in a constant, or bring what cannot be seen.
_UNSEEN = ("MATCH_CLASS", "IMPORT", "STORE_GLOBAL", "DELETE_GLOBAL")
_LOADS_OF_VARIABLES = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
#: Methods of a class that no forward runs by way of a builtin (``float(self)``) or an operator.
_HARMLESS = {"__init__", "__repr__", "__getstate__", "__setstate__", "__deepcopy__", "__call__"}
#: What every module has, and what reaches modules or tensors inside it without their names.
_OF_EVERY_MODULE = frozenset(dir(nn.Module)) - {"training", "forward"}
#: Where functions live that read nothing of a module that they are given but by calling it.
_LIBRARIES = ("torch", "math", "operator", "itertools", "functools", "typing", "collections")
#: More code than a forward has: what is longer is not looked at.
_MOST = 64


@cache
def names_read_by(kind: type[nn.Module]) -> frozenset[str] | None:
    """Every attribute named in the code that ``kind``'s forward can run, calls of other modules aside.

    Returns:
        The names, with "len" among them if that is called; None where the code cannot be followed: decorated
        or nested functions that hold other objects, names built as strings or matched as patterns, attributes
        caught by ``__getattr__``, operators of the class's own, walks over everything inside, code that is
        not Python's.
    """
    if _special_methods(kind) - _HARMLESS:
        return None
    names: set[str] = set()
    seen: set[int] = set()
    todo: list[Any] = [kind.forward]
    while todo:
        function = todo.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        if len(seen) > _MOST or not _can_be_followed(function):
            return None
        found = _names(function.__code__)
        if found is None:
            return None
        attributes, variables = found
        if variables & _BY_STRING or attributes & (_BY_STRING | _OF_EVERY_MODULE):
            return None
        names |= attributes | (variables & {"len"})
        further = [
            *(_method(name, kind) for name in attributes),
            *(_global(function.__globals__[name]) for name in variables if name in function.__globals__),
        ]
        if None in further:
            return None
        todo += [code for some in further for code in some or ()]
    return frozenset(names)


def _special_methods(kind: type[nn.Module]) -> set[str]:
    """Names of the methods that Python calls unasked, where somebody else than PyTorch defined them."""
    own = [c for c in kind.__mro__ if c is not object and c.__module__.split(".")[0] != "torch"]
    return {
        name for c in own for name, value in vars(c).items()
        if name.startswith("__") and name.endswith("__") and isinstance(value, FunctionType)
    }  # fmt: skip


def _names(code: CodeType) -> tuple[set[str], set[str]] | None:
    """Attributes and global variables that a code names; None if it imports or sets what cannot be seen."""
    attributes: set[str] = set()
    variables: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(_UNSEEN):
            return None
        if instruction.opcode in dis.hasname:
            loads = instruction.opname in _LOADS_OF_VARIABLES
            (variables if loads else attributes).add(str(instruction.argval))
    for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
        found = _names(inner)
        if found is None:
            return None
        attributes |= found[0]
        variables |= found[1]
    return attributes, variables


def _can_be_followed(function: Any) -> bool:
    """Whether it is a plain function that holds nothing but plain defaults and its class, for ``super()``."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return False
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not all(_is_plain(value) or _of_a_library(value) for value in defaults):
        return False
    return set(function.__code__.co_freevars) <= {"__class__"}


def _method(name: str, kind: type[nn.Module]) -> list[Any] | None:
    """The functions that an attribute of a ``kind`` can mean; None where one cannot be followed."""
    found: list[Any] = []
    # Each class's own, since super() reaches those that are overridden.
    for base in kind.__mro__:
        attribute = vars(base).get(name) if base not in (nn.Module, object) else None
        if isinstance(attribute, FunctionType):
            found.append(attribute)
        elif isinstance(attribute, property):
            found.append(attribute.fget)
        elif attribute is not None and not _is_plain(attribute):
            return None
    return found


def _global(value: Any) -> list[Any] | None:
    """The function behind a global variable, if there is one to follow; None where it cannot be followed."""
    if isinstance(value, ModuleType):
        return [] if value.__name__.split(".")[0] in _LIBRARIES else None
    name = getattr(value, "__name__", "")
    if name in _BY_STRING or (isinstance(value, FunctionType) and value is getattr(nn.Module, name, None)):
        return None
    if _is_plain(value) or _of_a_library(value):
        return []
    return [value] if isinstance(value, FunctionType) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list | frozenset):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _of_a_library(value: Any) -> bool:
    """Whether it is a function, class or object of a library; one that holds somebody's function is not."""
    if isinstance(value, BuiltinFunctionType):
        return True
    if isinstance(value, partial):
        return False
    module = getattr(value, "__module__", None)
    return isinstance(module, str) and module.split(".")[0] in (*_LIBRARIES, "builtins")
