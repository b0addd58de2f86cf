"""Whole models with binary layers in them: walk them, set their progress, group their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from irnet_convert.binary import METHODS
from irnet_convert.errors import ArgumentError, ModelError, nearest
from irnet_convert.layers.base import BinaryLayer


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    """The model's binary layers with their paths, each layer once, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            yield name, module


def layers_of(model: nn.Module) -> list[BinaryLayer]:
    """The model's binary layers, one at least.

    Raises:
        ModelError: there is none.
    """
    layers = [layer for _, layer in binary_layers(model)]
    if not layers:
        raise ModelError(
            f"a {type(model).__name__} with no binary layer",
            expected="a model that irnet_convert.binarize returned",
            mend="binarize the model first, and pass the result",
        )
    return layers


def set_progress(
    model: nn.Module, fraction: float, *, t_min: float | None = None, t_max: float | None = None
) -> None:
    """Set the surrogate gradient of every binary layer to what it is after a fraction of the training.

    Call it before each step (or epoch), with i/N. It waits for no device and recompiles nothing.

    Args:
        model: any module with binary layers in it, wrapped or compiled or not.
        fraction: 0 to 1.
        t_min: a new start of the schedule for every layer; each keeps its own if None.
        t_max: a new end of the schedule for every layer; each keeps its own if None.

    Raises:
        ModelError: there is no binary layer.
        ArgumentError: a value out of range; no layer is changed.
    """
    layers = layers_of(model)
    for layer in layers:  # all are asked before any is changed
        METHODS[layer.method].schedule(
            fraction,
            layer.t_min if t_min is None else t_min,
            layer.t_max if t_max is None else t_max,
        )
    for layer in layers:
        layer.set_progress(fraction, t_min, t_max)


#: What is binary in a stage of a training → (weights, activations).
BINARIZED = {
    "both": (True, True),
    "activations": (False, True),
    "weights": (True, False),
    "none": (False, False),
}


def set_binarized(model: nn.Module, what: str) -> None:
    """Choose what the binary layers take the sign of from now on: for a training in stages.

    Activations first and weights afterwards is how Martinez et al. (Real-to-Binary, ICLR 2020) and ReActNet
    train. Real weights are the latents as they are (of a layer with a scale: at the magnitude that the scale
    says), real activations the inputs as they are; layers with ``act_bits`` 32 have no others. No parameter
    changes. A network is what its plan says after ``both``, which is how it begins; nothing of this is saved.

    Args:
        model: any module with binary layers in it, wrapped or not.
        what: ``both``, ``activations``, ``weights`` or ``none``.

    Raises:
        ModelError: there is no binary layer.
        ArgumentError: another word.
    """
    if what not in BINARIZED:
        raise ArgumentError(
            f"set_binarized(model, {what!r})",
            expected="one of " + ", ".join(map(repr, BINARIZED)),
            mend=nearest(str(what), BINARIZED),
        )
    for layer in layers_of(model):
        weights, activations = BINARIZED[what]
        layer.real_weights, layer.real_activations = not weights, not activations


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    latent_lr: float | None = None,
    latent_weight_decay: float | None = None,
    scale_lr: float | None = None,
    scale_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Optimizer groups: latents, scales, and the rest with and without weight decay.

    A latent is scale-invariant: its effective learning rate goes as lr/σ², and weight decay acts on that
    alone, so both deserve values of their own. Scales (the gain of ScaledStd layers too) are not decayed
    unless asked for. As in timm, biases, parameters of one dimension or none, and what the model's own
    ``no_weight_decay()`` names are not decayed either.

    Args:
        model: any module; binary layers in it are found by class.
        lr: learning rate of all that is not given its own, 0 or more.
        weight_decay: of the "decay" group, and of the latents unless they are given their own.
        latent_lr: the latents' learning rate; ``lr`` if None.
        latent_weight_decay: the latents' weight decay; ``weight_decay`` if None.
        scale_lr: the scales' learning rate; ``lr`` if None.
        scale_weight_decay: the scales' weight decay.

    Returns:
        Dicts with ``name`` ("latents", "scales", "decay" or "no_decay"), ``params``, ``lr`` and
        ``weight_decay``. Every parameter that requires a gradient is in exactly one of them; none is empty.

    Raises:
        ArgumentError: a negative rate.
    """
    rates = {
        "latents": (_or(latent_lr, lr), _or(latent_weight_decay, weight_decay)),
        "scales": (_or(scale_lr, lr), scale_weight_decay),
        "decay": (lr, weight_decay),
        "no_decay": (lr, 0.0),
    }
    for name, pair in rates.items():
        if not all(rate >= 0 for rate in pair):
            raise ArgumentError(
                f"lr={pair[0]!r}, weight_decay={pair[1]!r} for the {name}",
                expected="numbers that are 0 or more",
                mend="give both as positive floats",
            )
    latents = {id(layer.weight) for _, layer in binary_layers(model)}
    scales = {
        id(p)
        for _, layer in binary_layers(model)
        for p in (layer._parameters.get("scale"), layer._parameters.get("gain"))
        if p is not None
    }
    # Asked of every module: wrappers (DDP, torch.compile) hide the method, and prefix the names.
    undecayed = tuple(
        f"{prefix}.{one}".lstrip(".")
        for prefix, module in model.named_modules()
        for one in getattr(module, "no_weight_decay", tuple)()
    )
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in latents:
            kind = "latents"
        elif id(parameter) in scales:
            kind = "scales"
        elif (
            parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatchcase(name, one) for one in undecayed)
        ):
            kind = "no_decay"
        else:
            kind = "decay"
        groups[kind].append(parameter)
    return [
        {"name": name, "params": params, "lr": rates[name][0], "weight_decay": rates[name][1]}
        for name, params in groups.items()
        if params
    ]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
