"""The only code that changes a module tree. All of a plan is applied, or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from torch import nn

from irnet_convert.errors import PolicyError, RewriteError, nearest
from irnet_convert.graph.plan import Decision, Edit, Plan
from irnet_convert.graph.record import is_layer
from irnet_convert.graph.rewrites import REWRITES
from irnet_convert.graph.routed import route
from irnet_convert.graph.traced import Graphs, Rendered, UntraceableError, install, trace
from irnet_convert.layers import binary_class_of

#: Attribute under which a converted model carries its plan.
PLAN_ATTRIBUTE = "irnet_plan"


class Undo:
    """Collects how to take changes back, and does so if the block it guards fails."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Remember a step; steps are run last first."""
        self._steps.append(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for step in reversed(self._steps):
                step()


class Editor:
    """Changes a model on behalf of the rewrites; graphs are traced once an owner and installed together."""

    def __init__(self, model: nn.Module, plan: Plan, undo: Undo, traces: Mapping[str, Graphs]) -> None:
        self.model = model
        self._plan = plan
        self._undo = undo
        self._traces = traces
        self._graphs: dict[str, Graphs] = {}
        self._routes: dict[str, list[str]] = {}
        self._path_of = {module: path for path, module in model.named_modules()}
        self._places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for parent in model.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    self._places.setdefault(child, []).append((parent, name))

    def module(self, path: str) -> nn.Module:
        """The module at ``path`` as it is now.

        Raises:
            RewriteError: there is none.
        """
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            raise RewriteError(
                f"the plan edits {path!r}, which {type(self.model).__name__} does not have",
                expected="the model that the plan was made for", mend="plan this model anew",
            ) from error  # fmt: skip

    def path_of(self, module: nn.Module) -> str:
        """The first path of ``module``, which no edit has put in."""
        return self._path_of[module]

    def graphs(self, owner: str) -> Graphs:
        """The graphs of an owner's forward, to be edited; :meth:`finish` installs them."""
        if owner not in self._graphs and owner in self._traces:
            self._graphs[owner] = copy.deepcopy(self._traces[owner])
        elif owner not in self._graphs:
            try:
                self._graphs[owner] = trace(self.module(owner), set(self._plan.traced.get(owner, ())))
            except UntraceableError as error:
                raise RewriteError(
                    f"the forward of {owner or 'the model'} cannot be traced: {error}",
                    expected="the model that the plan was made for", mend="plan this model anew",
                ) from error  # fmt: skip
        return self._graphs[owner]

    def lost(self, edit: Edit) -> RewriteError:
        """The error of an edit whose place is not there."""
        return RewriteError(
            f"{edit.rewrite} ({edit.form}) in {edit.owner or 'the model'}: its place was not found",
            expected="the model that the plan was made for", mend="plan this model anew",
        )  # fmt: skip

    def replace(self, path: str, new: nn.Module) -> None:
        """Put ``new`` in the place of the module at ``path``, under all of its paths."""
        old = self.module(path)
        if old is self.model:
            raise RewriteError(
                f"the model is itself one {type(old).__name__}", expected="a model that holds layers",
                mend="wrap it in nn.Sequential",
            )  # fmt: skip
        for parent, name in self._places[old]:
            parent._modules[name] = new
            self._undo.add(lambda p=parent, n=name: p._modules.__setitem__(n, old))
        self._places[new] = self._places.pop(old)
        for child in new._modules.values():  # an attention's layers have it as their parent now
            if child in self._places:
                self._places[child] = [(new if p is old else p, n) for p, n in self._places[child]]

    def add(self, owner: str, name: str, child: nn.Module) -> None:
        """Give an owner a new child, under a name that it does not have yet.

        Raises:
            RewriteError: it has.
        """
        module = self.module(owner)
        if hasattr(module, name):
            raise RewriteError(
                f"{owner or 'the model'} has a {name!r} already",
                expected="the model that the plan was made for", mend="plan this model anew",
            )  # fmt: skip
        module.add_module(name, child)
        self._undo.add(lambda: module._modules.pop(name, None))

    def route(self, owner: str, name: str) -> None:
        """Have an owner's forward call its descendant ``name`` where it applies that one's weight."""
        self.module(owner)
        self._routes.setdefault(owner, []).append(name)

    def finish(self) -> None:
        """Install every graph that was edited, and around them what calls layers that were bypassed."""
        known: Rendered = {}
        for owner, graphs in self._graphs.items():
            module = self.module(owner)
            install(module, graphs, known)
            self._undo.add(lambda m=module: vars(m).pop("forward", None))
        for owner, names in self._routes.items():
            module = self.module(owner)
            route(module, names)
            self._undo.add(lambda m=module: vars(m).pop("forward", None))


def apply_plan(model: nn.Module, plan: Plan, undo: Undo, traces: Mapping[str, Graphs] | None = None) -> None:
    """Convert ``model`` in place by ``plan``. Call it inside ``with undo:``.

    Args:
        model: what to convert.
        plan: what to do.
        undo: takes it back if something fails.
        traces: graphs of forwards that are known already; what is not there is traced.

    Raises:
        PolicyError: the plan names layers that the model does not have, or of another kind.
        RewriteError: an edit's place is not there.
    """
    _check_fits(model, plan)
    editor = Editor(model, plan, undo, traces or {})
    for decision in plan.binarized:
        editor.replace(decision.path, _binary_for(editor.module(decision.path), decision))
    for edit in plan.edits:
        REWRITES[edit.rewrite].apply(editor, edit)
    editor.finish()
    setattr(model, PLAN_ATTRIBUTE, plan)
    undo.add(lambda: vars(model).pop(PLAN_ATTRIBUTE, None))


def _binary_for(layer: nn.Module, decision: Decision) -> nn.Module:
    cls = binary_class_of(layer, method=decision.method or "irnet")
    assert not isinstance(cls, str), cls  # _check_fits compared the kinds
    return cls.from_dense(
        layer, method=decision.method or "irnet", act_bits=decision.act_bits, scale=decision.scale
    )


def _check_fits(model: nn.Module, plan: Plan) -> None:
    layers = {path: m for path, m in model.named_modules() if is_layer(m)}
    for decision in plan.decisions:
        layer = layers.get(decision.path)
        if layer is None or type(layer).__name__ != decision.kind:
            there = "nothing" if layer is None else f"a {type(layer).__name__}"
            raise PolicyError(
                f"the plan has a {decision.kind} at {decision.path!r}, {type(model).__name__} has {there}",
                expected=nearest(decision.path, layers) if layer is None else f"a {decision.kind}",
                mend="use the model that the plan was made for, built with the same arguments, or plan anew",
            )
        if decision.action == "binarize" and isinstance(why := binary_class_of(layer), str):
            raise PolicyError(
                f"the plan binarizes {decision.path!r}, which cannot be binarized: {why}",
                expected="a layer that can be binarized", mend="plan this model anew",
            )  # fmt: skip
    _check_all_planned(model, plan, layers)
    _check_edits(plan)


def _check_all_planned(model: nn.Module, plan: Plan, layers: Mapping[str, nn.Module]) -> None:
    planned = {d.path for d in plan.decisions}
    extra = [path for path in layers if path not in planned]
    if extra:
        raise PolicyError(
            f"{type(model).__name__} has {len(extra)} layers that the plan does not know, {extra[0]!r} first",
            expected=f"a model with the plan's {len(planned)} layers",
            mend="use the model that the plan was made for, built with the same arguments, or plan anew",
        )


def _check_edits(plan: Plan) -> None:
    for edit in plan.edits:
        known = REWRITES.get(edit.rewrite)
        if known is None or edit.form not in known.FORMS:
            raise PolicyError(
                f"the plan holds an edit of rewrite {edit.rewrite!r}, form {edit.form!r}",
                expected=nearest(edit.rewrite, REWRITES)
                if known is None
                else nearest(edit.form, known.FORMS),
                mend="use the version of irnet-convert that wrote the plan",
            )
