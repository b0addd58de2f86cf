"""A module's forward as a small fx graph, and that graph back as the forward of the same object.

Only the module's own forward is traced: every child is a leaf. If its class reads ``self.training`` it is
traced once in training and once in evaluation mode, so that whatever the forward bakes in of it (a functional
dropout, the flag of a functional batch norm) is right in both.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from timm.models._features_fx import get_notrace_functions
from torch import Tensor, fx, nn
from torch.fx.proxy import ParameterProxy
from torch.utils._pytree import tree_leaves

from irnet_convert.errors import RewriteError


class UntraceableError(Exception):
    """Internal: this forward cannot be turned into a graph; the text says why."""


#: The graph for evaluation (False) and the one for training (True); they may be one and the same.
Graphs = dict[bool, fx.Graph]
#: Renderings by what the graph says.
Rendered = dict[object, Any]


def distinct(graphs: Graphs) -> list[fx.Graph]:
    """Each graph once, for whoever reads or edits them."""
    return list({id(graph): graph for graph in graphs.values()}.values())


class _BufferProxy(ParameterProxy):
    """A buffer's node, whose shape is known. (The base class takes parameters alone.)"""

    def __init__(self, tracer: fx.Tracer, node: fx.Node, name: str, buffer: Tensor) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.param, self.name = buffer, name


class _OwnerTracer(fx.Tracer):
    """Traces one forward with every child a leaf and arguments that no caller gives left at their default."""

    def __init__(self, passed: set[str]) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()), param_shapes_constant=True)
        self.passed = passed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Buffers become nodes as parameters do.

        Else an update of one (a batch norm's count) would happen while tracing, once, and never again.
        """
        if not isinstance(attr_val, Tensor) or isinstance(attr_val, nn.Parameter):
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        name = next((n for n, b in self.root.named_buffers() if b is attr_val), None)
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            node = self.create_node("get_attr", name, (), {})
            parameter_proxy_cache[name] = _BufferProxy(self, node, name, attr_val)
        return parameter_proxy_cache[name]

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        args: list[Any] = [self.root]
        for name, parameter in list(signature_of(root_fn).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                if name in self.passed:
                    raise UntraceableError(f"forward takes *{name}")
                continue
            if parameter.kind is parameter.KEYWORD_ONLY:
                if name in self.passed:
                    raise UntraceableError(f"forward takes {name} by keyword only")
                continue
            if name in self.passed or parameter.default is parameter.empty:
                args.append(self.create_proxy("placeholder", name, (), {}))
            else:
                args.append(parameter.default)
        return root_fn, args


def trace(owner: nn.Module, passed: set[str]) -> Graphs:
    """The graphs of ``owner``'s forward in both modes.

    Args:
        owner: the module; it is left as it was.
        passed: names of the forward arguments that callers give (``Record.passed``).

    Raises:
        UntraceableError: the forward branches on tensor values or does something else that fx cannot follow.
    """
    if "forward" in vars(owner):
        raise UntraceableError("its forward was replaced before")
    if isinstance(owner, torch.jit.ScriptModule):
        raise UntraceableError("it is a TorchScript module")
    before, graphs = dict(vars(owner)), {}
    held = {name: copy.copy(value) for name, value in before.items() if isinstance(value, _CONTAINERS)}
    try:
        with torch.random.fork_rng():
            for mode in (False, True):
                if mode and not _reads_training(type(owner)):
                    graphs[mode] = graphs[False]
                    continue
                owner.training = mode
                graphs[mode] = _OwnerTracer(passed).trace(owner)
                _check_same_attributes(owner, {**before, "training": mode}, held)
    except UntraceableError:
        raise
    except Exception as error:  # fx and the traced forward raise anything at all
        raise UntraceableError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    finally:
        vars(owner).clear()
        vars(owner).update(before)
        for name, content in held.items():
            _refill(before[name], content)
    return graphs


@cache
def _reads_training(kind: type[nn.Module]) -> bool:
    """Whether a method of the class mentions its mode. (One that reads it behind a function's back is found
    by :func:`~irnet_convert.graph.alike.does_the_same`, which runs both modes.)
    """
    methods = (m for c in kind.__mro__ if c is not nn.Module for m in vars(c).values())
    functions = [m for m in methods if isinstance(m, FunctionType)]
    return any(hasattr(f, "__wrapped__") or _mentions(f.__code__, "training") for f in functions)


def _mentions(code: CodeType, name: str) -> bool:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return name in (*code.co_names, *code.co_consts) or any(_mentions(c, name) for c in inner)


@functools.lru_cache(maxsize=4096)
def signature_of(forward: Any) -> inspect.Signature:
    """``inspect.signature``, which takes a tenth of a millisecond, once for each function."""
    return inspect.signature(forward)


_CONTAINERS = (dict, list, set)


def _refill(container: Any, content: Any) -> None:
    """Put back what a container held, if the traced forward changed it."""
    if not _same_items(container, content):
        container.clear()
        container.extend(content) if isinstance(container, list) else container.update(content)


def _same_items(a: Any, b: Any) -> bool:
    """Whether two containers hold the same objects (proxies and tensors must not be compared by value)."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(value is b[key] for key, value in a.items())
    ids = [[id(v) for v in c] for c in (a, b)]
    return ids[0] == ids[1] or (isinstance(a, set) and set(ids[0]) == set(ids[1]))


def _check_same_attributes(owner: nn.Module, before: dict[str, Any], held: dict[str, Any]) -> None:
    """Refuse a forward that keeps something on its module: it would happen while tracing, with proxies."""
    now = vars(owner)
    for name, content in held.items():
        if not _same_items(before[name], content):
            raise UntraceableError(f"it keeps something in {name}")
    changed = [k for k in now.keys() | before.keys() if k not in now or now[k] is not before.get(k)]
    if changed:
        raise UntraceableError(f"it sets the attribute {min(changed)}")


class GraphForward:
    """The rewritten forward of one module instance.

    It is stored as ``instance.forward``, so the object stays what it is: its class, attributes, hooks and
    parameters. Deep copies and pickles bind to the copied module.
    """

    def __init__(self, owner: nn.Module, graphs: Graphs, known: Rendered | None = None) -> None:
        self.owner = owner
        codes = {id(graph): _rendered(graph, known) for graph in distinct(graphs)}
        self.sources = {mode: codes[id(graph)].src for mode, graph in graphs.items()}
        self.names = {mode: dict(codes[id(graph)].globals) for mode, graph in graphs.items()}
        self.inputs = [n.target for n in graphs[False].nodes if n.op == "placeholder"]
        # Tracing has read these and made constants of them.
        self.fixed = {
            name: value
            for name, value in vars(owner).items()
            if isinstance(value, bool | int | float | str | None)
            and not name.startswith("_") and name != "training"
        }  # fmt: skip
        self.children = list(owner._modules)
        self._compile()

    def _compile(self) -> None:
        self.functions = {}
        for mode, source in self.sources.items():
            # The source is fx's own rendering of a graph traced from the module's code; no text of a
            # file or of a user enters it.
            scope = dict(self.names[mode])
            exec(_code(source, f"<rewritten {type(self.owner).__name__}.forward>"), scope)
            self.functions[mode] = scope["forward"]
        self.signature = signature_of(type(self.owner).forward)

    def bound_to(self, twin: nn.Module) -> GraphForward:
        """The same forward for a shallow copy of the owner."""
        found = copy.copy(self)
        found.owner = twin
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphForward:
        """The same forward for the copy of the owner; functions hold nothing that changes."""
        return self.bound_to(copy.deepcopy(self.owner, memo))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph of the owner's current mode."""
        for name, value in self.fixed.items():
            if getattr(self.owner, name) != value:
                raise self._changed(name, value, getattr(self.owner, name))
        if list(self.owner._modules) != self.children:
            raise self._changed("the list of children", self.children, list(self.owner._modules))
        function = self.functions[self.owner.training]
        rest = self.inputs[len(args) :]
        if len(args) + len(kwargs) == len(self.inputs) and all(name in kwargs for name in rest):
            return function(self.owner, *args, *[kwargs[name] for name in rest])
        return function(self.owner, *self._bind(args, kwargs))

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        extra = {
            k: kwargs.pop(k) for k in list(kwargs) if k in self.inputs and k not in self.signature.parameters
        }
        bound = self.signature.bind(self.owner, *args, **kwargs)
        bound.apply_defaults()
        given = {**bound.arguments, **extra}
        for name, parameter in list(self.signature.parameters.items())[1:]:
            fixed = name not in self.inputs and parameter.default is not parameter.empty
            if fixed and not _is_default(given[name], parameter.default):
                raise RewriteError(
                    f"{type(self.owner).__name__}.forward was called with {name}={given[name]!r}",
                    expected=f"{name}={parameter.default!r}, as in the run that the conversion recorded",
                    mend=f"pass binarize an example_input with which the model gives {name} to this module",
                )
        return tuple(given.get(name) for name in self.inputs)

    def _changed(self, what: str, before: Any, now: Any) -> RewriteError:
        return RewriteError(
            f"{type(self.owner).__name__}: {what} is {now!r}, and was {before!r} at conversion",
            expected="no change of what the rewritten forward has read",
            mend="make the change before binarize, or set it back",
        )

    def __getstate__(self) -> dict[str, Any]:
        names = {m: {k: _Module.of(v) for k, v in scope.items()} for m, scope in self.names.items()}
        kept = {k: v for k, v in vars(self).items() if k not in ("functions", "signature")}
        return {**kept, "names": names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.names = {m: {k: _Module.real(v) for k, v in s.items()} for m, s in state["names"].items()}
        self._compile()


def _rendered(graph: fx.Graph, known: Rendered | None) -> Any:
    """Fx's rendering of a graph; of graphs that are alike, such as those of a network's blocks, once."""
    key = None if known is None else _text_of(graph)
    if known is not None and key in known:
        return known[key]
    graph.lint()
    found = graph.python_code("self")
    if known is not None and key is not None:
        known[key] = found
    return found


def _text_of(graph: fx.Graph) -> object | None:
    """What two graphs share only if they are rendered alike; None where that cannot be told."""
    leaves = [leaf for n in graph.nodes for leaf in tree_leaves((n.args, n.kwargs))]
    if not all(isinstance(leaf, fx.Node | bool | int | float | str | torch.dtype | None) for leaf in leaves):
        return None
    return tuple((n.op, n.target, n.name, n.type, repr((n.args, n.kwargs))) for n in graph.nodes)


@functools.lru_cache(maxsize=512)
def _code(source: str, name: str) -> CodeType:
    return compile(source, name, "exec")


def _is_default(given: Any, default: Any) -> bool:
    """Whether the graph holds for ``given`` too. Tensors are never compared: that would wait for a device."""
    if given is default:
        return True
    return not isinstance(given, Tensor) and not isinstance(default, Tensor) and bool(given == default)


@dataclass(frozen=True)
class _Module:
    """Stands for an imported module (``torch``) in a copy or pickle: modules themselves have none."""

    name: str

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls(value.__name__) if isinstance(value, ModuleType) else value

    @staticmethod
    def real(value: Any) -> Any:
        return importlib.import_module(value.name) if isinstance(value, _Module) else value


def install(owner: nn.Module, graphs: Graphs, known: Rendered | None = None) -> None:
    """Make ``graphs`` the forward of this one instance.

    Args:
        owner: the module.
        graphs: its graphs.
        known: renderings of other graphs; new ones are added.
    """
    owner.forward = GraphForward(owner, graphs, known)


def insert_input(graph: fx.Graph, name: str) -> fx.Node:
    """Append an input after the existing ones. Its callers pass it by keyword."""
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(last):
        return graph.placeholder(name)
