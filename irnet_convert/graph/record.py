"""Run a model once and record its data flow.

The run happens on meta tensors where the model allows it (no arithmetic, no second copy of the
weights), else on the model's own device with its state restored afterwards. Inside
``torch.inference_mode`` a dispatch mode sees operators undecomposed (``aten.linear``,
``aten.batch_norm``), and tensors keep their identity, so that operators can be linked by the tensors
they pass on. A call of a convolution or linear layer becomes one node.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.errors import RecordError
from irnet_convert.graph.example import Example, small_detection_images
from irnet_convert.graph.nodes import LAYERS, TARGETS, Frame, Node, Record, is_layer, weight_of
from irnet_convert.graph.recorder import Recorder
from irnet_convert.graph.watch import module_calls_told

__all__ = [
    "LAYERS", "TARGETS", "Frame", "Node", "Record", "Twin", "is_layer", "meta_twin", "record", "weight_of",
]  # fmt: skip


class Twin:
    """A model's copy on the meta device, made when it is first needed, for every recording of the model as it
    stands. The copy is as dear as a run.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._made: nn.Module | None = None

    def run(self, example: Example, training: bool) -> Record:
        """Record a run of the copy. Raises whatever the model raises."""
        if self._made is not None:
            try:
                return self._run(self._made, example, training)
            except Exception:  # the run before may have left something in it
                self._made = None
        self._made = meta_twin(self._model)
        return self._run(self._made, example, training)

    @staticmethod
    def _run(twin: nn.Module, example: Example, training: bool) -> Record:
        twin.train(training)
        return run_recorded(Recorder(twin, training), twin, example.to(torch.device("meta")))


def record(
    model: nn.Module,
    example: Example,
    *,
    training: bool = False,
    by_value: bool = False,
    twin: Twin | None = None,
) -> Record:
    """Run ``model`` once on ``example`` and return what happened. The model is left as it was.

    Args:
        model: any module; its parameters may be on any device, the meta device included.
        example: the arguments of the run.
        training: record training mode instead of evaluation mode.
        by_value: run with the real tensors at once; it is known that the model needs them.
        twin: of ``model``, where it is recorded more than once.

    Raises:
        RecordError: the model does not run on the example; the message holds the model's own error.
    """
    with _random_states_kept():
        try:
            if not by_value:
                return (twin or Twin(model)).run(example, training)
        except Exception as meta_error:
            if any(p.is_meta for p in model.parameters()):
                raise _record_error(model, example, meta_error) from meta_error
        try:
            return _record_in_place(model, example, training)
        except Exception as error:
            raise _record_error(model, example, error) from error


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """A model may draw numbers on the CPU even where its own tensors are on the meta device."""
    python_state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)


def _record_error(model: nn.Module, example: Example, error: Exception) -> RecordError:
    detail = str(error).strip().splitlines() or [""]
    return RecordError(
        f"{type(model).__name__} did not run on the example input {example}: "
        f"{type(error).__name__}: {detail[0]}",
        expected="an input that the model's forward accepts",
        mend="pass example_input= (a tensor, a tuple of arguments or a dict of keyword arguments) of the "
        "shape and dtype that the model takes",
    )


def _record_in_place(model: nn.Module, example: Example, training: bool) -> Record:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _restored(model), small_detection_images(model):
        model.train(training)
        found = run_recorded(Recorder(model, training), model, example.to(device))
    found.by_value = True
    return found


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put training flags and buffers back, whatever the run does to them."""
    flags = {m: m.training for m in model.modules()}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def meta_twin(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` whose parameters, buffers and tensor attributes are on the meta device.

    The weights themselves are never copied: deepcopy is told beforehand what each tensor becomes. It is told
    what each module becomes too, and left with what is neither; that takes a third of the time.
    """
    memo: dict[int, Any] = {}
    for tensor in _tensors_of(model):
        twin = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = twin
    modules = list(model.modules())
    if not all(_copied_by_attributes(type(module)) for module in modules):
        return copy.deepcopy(model, memo)
    memo |= {id(module): object.__new__(type(module)) for module in modules}
    for module in modules:
        state: dict[str, Any] = module.__getstate__()
        memo[id(module)].__setstate__({name: _twin_of(value, memo) for name, value in state.items()})
    return memo[id(model)]


@cache
def _copied_by_attributes(kind: type[nn.Module]) -> bool:
    """Whether a copy of a module is its class with copies of its attributes, as for ``nn.Module`` itself."""
    ways = ("__new__", "__reduce__", "__reduce_ex__", "__getstate__")
    return not hasattr(kind, "__deepcopy__") and all(getattr(kind, w) is getattr(nn.Module, w) for w in ways)


def _twin_of(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (dict, OrderedDict) and all(type(key) is str for key in value):
        twin = memo[id(value)] = type(value)()
        twin.update((key, _twin_of(item, memo)) for key, item in value.items())
        return twin
    return copy.deepcopy(value, memo)


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        yield from (p for p in module._parameters.values() if p is not None)
        yield from (b for b in module._buffers.values() if b is not None)
        yield from (v for v in vars(module).values() if isinstance(v, Tensor))


def run_recorded(recorder: Recorder, model: nn.Module, example: Example) -> Record:
    """Run ``model`` as it stands, under ``recorder``. Raises whatever the model raises."""
    # Attention's fused evaluation path hides its projections in one operator.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), module_calls_told(recorder.told), recorder:
            recorder.note_inputs(example)
            output = model(*example.args, **example.kwargs)
        recorder.note_outputs(output)
        recorder.drop_values()
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return recorder.record
