"""What binary layers keep beside their tensors: taken from a model, put back onto one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from irnet_convert.errors import PretrainedError
from irnet_convert.layers.model import binary_layers
from irnet_convert.pretrained.config import LayerState

#: Attributes of a binary layer, which are the fields of a :class:`LayerState` too.
KEPT = ("progress", "t_min", "t_max", "real_weights", "real_activations")


def states_of(model: nn.Module) -> tuple[LayerState, ...]:
    """The states of a model's binary layers: the commonest for all, then those of the rest."""
    groups: dict[LayerState, list[str]] = {}
    for path, layer in binary_layers(model):
        state = LayerState.model_validate({name: getattr(layer, name, False) for name in KEPT})
        groups.setdefault(state, []).append(path)
    if not groups:
        return ()
    common = max(groups, key=lambda state: len(groups[state]))
    rest = [s.model_copy(update={"layers": tuple(paths)}) for s, paths in groups.items() if s is not common]
    return (common, *rest)


def check_states(model: nn.Module, states: Sequence[LayerState]) -> None:
    """Refuse states that are not of exactly this model's binary layers.

    Raises:
        PretrainedError: a path that is none, a layer with two states, or layers with none.
    """
    known = [path for path, _ in binary_layers(model)]
    named = [path for state in states for path in state.layers or ()]
    common = sum(state.layers is None for state in states)
    unknown = sorted(set(named) - set(known))
    if unknown or len(set(named)) != len(named) or common != bool(known):
        raise PretrainedError(
            f"config.json gives {len(states)} states of binary layers, {common} of them for all, "
            f"{len(named)} paths" + (f", with {unknown[0][:120]!r}, no binary layer" if unknown else ""),
            expected=f"one state for all of the {len(known)} binary layers, and others for some of them, "
            "each once" if known else "none: this model has no binary layer",
            mend="use a model that irnet_convert.save_pretrained wrote; this one was altered",
        )  # fmt: skip


def put_states(model: nn.Module, states: Sequence[LayerState]) -> None:
    """Put states that :func:`check_states` has passed onto a model's binary layers.

    Raises:
        ArgumentError: a schedule that is none.
    """
    of_path = {path: state for state in states for path in state.layers or ()}
    common = next((state for state in states if state.layers is None), None)
    for path, layer in binary_layers(model):
        state = of_path.get(path, common)
        assert state is not None  # check_states
        layer.set_progress(state.progress, state.t_min, state.t_max)
        for name in ("real_weights", "real_activations"):
            if getattr(layer, name, False) != getattr(state, name):
                setattr(layer, name, getattr(state, name))
