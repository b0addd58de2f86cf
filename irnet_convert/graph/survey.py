"""What the recordings say about a model: the facts from which a plan is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from irnet_convert.errors import RecordError
from irnet_convert.graph import flow
from irnet_convert.graph.example import Example, example_of
from irnet_convert.graph.kind import kind_of
from irnet_convert.graph.ops import NORMS
from irnet_convert.graph.record import LAYERS, Record, Twin, is_layer, record, weight_of
from irnet_convert.graph.traced import Graphs, UntraceableError, trace
from irnet_convert.policy import LayerInfo


@dataclass(kw_only=True)
class Survey:
    """A model, how it ran, and its layers.

    Attributes:
        model: the model, unchanged.
        example: the input of the recording in evaluation mode.
        records: the recording in evaluation mode, and one in training mode if some layers run only there.
        layers: every target layer by its first path.
        twin: of ``model``, which was recorded.
        given: the caller's example input, None if the project made it.
        verified: owners whose graphs were run and did what their forwards do.
    """

    model: nn.Module
    example: Example
    records: tuple[Record, ...]
    layers: dict[str, nn.Module]
    twin: Twin
    given: Any = None
    verified: set[str] = field(default_factory=set)
    _traces: dict[str, Graphs | str] = field(default_factory=dict)
    _by_kind: dict[object, Graphs | str] = field(default_factory=dict)

    def record_of(self, layer: str) -> Record | None:
        """The first recording in which ``layer`` was called."""
        return next((r for r in self.records if layer in r.calls), None)

    def record(self, model: nn.Module, *, training: bool, twin: Twin | None = None) -> Record:
        """Record :attr:`model`, or what was made of it, in the way in which the first recording went.

        Raises:
            RecordError: it does not run.
        """
        by_value = self.records[0].by_value
        return record(model, self.example_for(training), training=training, by_value=by_value, twin=twin)

    def example_for(self, training: bool) -> Example:
        """The input of a recording in that mode."""
        return example_of(self.model, self.given, training=True) if training else self.example

    @cached_property
    def in_training(self) -> Record | None:
        """A recording in training mode, or None if the model does not run so on its example."""
        known = next((r for r in self.records if r.training), None)
        try:
            return known or self.record(self.model, training=True, twin=self.twin)
        except RecordError:  # batch statistics of a single value, for one
            return None

    @cached_property
    def infos(self) -> dict[str, LayerInfo]:
        """What rules may ask, for every layer."""
        first, last = self._first(), self._union(flow.last_layers)
        roles = {
            "constant_fed": self._constant_fed(),
            "squeeze_excite": self._union(flow.squeeze_excite),
            "downsample": self._union(lambda r: flow.downsamples(r, self.layers)),
            "depthwise": {p for p, layer in self.layers.items() if _is_depthwise(layer)},
        }
        return {
            path: _info(
                layer,
                self.paths_of(path),
                frozenset(p for p, found in (("first", first), ("last", last)) if path in found),
                frozenset(r for r, found in roles.items() if path in found),
            )
            for path, layer in self.layers.items()
        }

    def _first(self) -> set[str]:
        """First layers. In training mode targets are inputs too: only what runs there alone is asked."""
        evaluation, *training = self.records
        alone = [p for r in training for p in flow.first_layers(r) if p not in evaluation.calls]
        return flow.first_layers(evaluation).union(alone)

    def _union(self, question: Any) -> set[str]:
        return set().union(*(question(r) for r in self.records))

    def _constant_fed(self) -> set[str]:
        called = [(set(r.calls), flow.constant_fed(r)) for r in self.records]
        return {
            p
            for p in self.layers
            if (hits := [p in fed for calls, fed in called if p in calls]) and all(hits)
        }

    def paths_of(self, path: str) -> tuple[str, ...]:
        """Every path of the module at ``path``, the first one first."""
        return self.records[0].paths[path]

    @cached_property
    def needs_scale(self) -> set[str]:
        """Layers with no normalisation after them."""
        return self._union(flow.without_norm_after)

    @cached_property
    def read_elsewhere(self) -> dict[str, str]:
        """Layers whose weight is read outside their own call → what reads it."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        by_name = {names[id(w)]: path for path, layer in self.layers.items()
                   if id(w := weight_of(layer)) in names}  # fmt: skip
        found: dict[str, str] = {}
        for rec in self.records:
            for value, name in rec.params.items():
                if name in by_name and (readers := rec.consumers.get(value)):
                    found[by_name[name]] = f"{readers[0].op} in {readers[0].owner or 'the model'}"
        return found

    def bypassed_by(self, path: str) -> str | None:
        """The module that gives this layer's weight to ``F.linear`` itself, without calling the layer."""
        calls = (call for rec in self.records for call in rec.calls.get(path, ()) if call.bypassed)
        return next((call.owner or "the model" for call in calls), None)

    @cached_property
    def tied(self) -> dict[str, str]:
        """Layers whose weight is another layer's too → that layer."""
        by_weight: dict[int, list[str]] = {}
        for path, layer in self.layers.items():
            by_weight.setdefault(id(layer if (w := weight_of(layer)) is None else w), []).append(path)
        groups = [paths for paths in by_weight.values() if len(paths) > 1]
        return {path: next(p for p in paths if p != path) for paths in groups for path in paths}

    @cached_property
    def norm_owners(self) -> set[str]:
        """Paths of the modules that run a normalisation themselves."""
        return {n.owner for r in self.records for n in r.nodes if n.op in NORMS}

    @cached_property
    def norms(self) -> set[nn.Module]:
        """The modules of :attr:`norm_owners`."""
        return {self.model.get_submodule(path) for path in self.norm_owners}

    @cached_property
    def norms_with_more(self) -> set[str]:
        """Those of :attr:`norm_owners` that do more than normalise: they run a child's operator."""
        norms = self.norm_owners
        return {
            frame.path
            for r in self.records for n in r.nodes for frame in n.frames
            if n.op not in NORMS and frame.path in norms and n.owner != frame.path
        }  # fmt: skip

    @cached_property
    def path_of(self) -> dict[nn.Module, str]:
        """The first path of every module."""
        return {module: path for path, module in self.model.named_modules()}

    def passed(self, owner: str) -> set[str]:
        """Names of the forward arguments that callers of ``owner`` give."""
        return set().union(*(r.passed.get(owner, set()) for r in self.records))

    def graphs(self, owner: str) -> Graphs:
        """The graphs of ``owner``'s forward, to be read only.

        Raises:
            UntraceableError: with the reason.
        """
        if owner not in self._traces:
            module, passed = self.model.get_submodule(owner), self.passed(owner)
            kind = kind_of(module, passed)
            if kind is None or kind not in self._by_kind:
                try:
                    self._traces[owner] = trace(module, passed)
                except UntraceableError as error:
                    self._traces[owner] = str(error)
                if kind is not None:
                    self._by_kind[kind] = self._traces[owner]
            else:
                self._traces[owner] = self._by_kind[kind]
        found = self._traces[owner]
        if isinstance(found, str):
            raise UntraceableError(found)
        return found

    @property
    def traces(self) -> dict[str, Graphs]:
        """The graphs that were made so far."""
        return {owner: found for owner, found in self._traces.items() if not isinstance(found, str)}

    def distrust(self, owner: str, reason: str) -> None:
        """Take ``owner``'s forward as one that cannot be traced."""
        self._traces[owner] = reason


def survey(model: nn.Module, example_input: Any = None) -> Survey:
    """Record ``model`` in evaluation mode, and in training mode too if the first does not tell enough.

    That is so if some layer did not run, or nothing came of it: a detector that finds no box in the example
    leads its masks nowhere, while in training mode they end in a loss.

    Raises:
        RecordError: the model does not run, or no example is known.
    """
    example = example_of(model, example_input)
    twin = Twin(model)
    records = [record(model, example, twin=twin)]
    layers = {p: m for p, m in model.named_modules() if is_layer(m)}
    found = Survey(
        model=model, example=example, records=tuple(records), layers=layers, given=example_input, twin=twin
    )
    unseen = any(p not in records[0].calls and p not in found.read_elsewhere for p in layers)
    if unseen or flow.leading_nowhere(records[0]):
        try:
            records.append(found.record(model, training=True, twin=twin))
        except RecordError:
            return found  # it runs in evaluation mode; layers that did not are kept with that reason
        found = replace(found, records=tuple(records))
    return found


def _is_depthwise(layer: nn.Module) -> bool:
    groups = getattr(layer, "groups", 1)
    return groups > 1 and groups == getattr(layer, "in_channels", 0)


def _info(layer: Any, paths: tuple[str, ...], positions: frozenset[str], roles: frozenset[str]) -> LayerInfo:
    kinds = tuple(c.__name__ for c in type(layer).__mro__ if issubclass(c, LAYERS))
    linear = isinstance(layer, nn.Linear)
    if isinstance(layer, nn.MultiheadAttention):
        return LayerInfo(
            paths=paths, kinds=kinds, positions=positions, roles=roles, kernel_size=(), groups=1,
            in_channels=layer.embed_dim, out_channels=3 * layer.embed_dim,
        )  # fmt: skip
    return LayerInfo(
        paths=paths, kinds=kinds, positions=positions, roles=roles,
        kernel_size=() if linear else tuple(layer.kernel_size),
        groups=1 if linear else layer.groups,
        in_channels=layer.in_features if linear else layer.in_channels,
        out_channels=layer.out_features if linear else layer.out_channels,
    )  # fmt: skip
