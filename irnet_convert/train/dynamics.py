"""How binary layers fare: signs that flipped, latents and activations that the surrogate does not reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from irnet_convert.binary import METHODS, Method
from irnet_convert.binary.irnet import standardize
from irnet_convert.layers import BinaryLayer, binary_layers
from irnet_convert.recipe import EdeSpec
from irnet_convert.train.evaluate import reduced

#: A latent is saturated where the surrogate's slope is below this share of its peak.
SATURATED = 0.01


@torch.no_grad()
def packed_signs(model: nn.Module) -> dict[str, Tensor]:
    """The signs of all binary weights, a bit each.

    Returns:
        Path of the layer → uint8, (⌈weights / 8⌉,), on the CPU.
    """
    return {
        path: torch.from_numpy(np.packbits((layer.binary_weight() >= 0).flatten().cpu().numpy()))
        for path, layer in binary_layers(model)
    }


@torch.no_grad()
def saturation(model: nn.Module, progress: float, ede: EdeSpec) -> dict[str, float]:
    """Per layer, the share of latents ŵ at which the surrogate's slope is under 1 % of its peak.

    EDE's slope k·t·(1 − tanh²(t·ŵ)) falls below a share c of its peak, that at 0, where |t·ŵ| exceeds
    artanh(√(1 − c)): 2.99 for 1 %. A weight there gets next to no gradient, and its sign stays what it is.

    Args:
        model: with binary layers.
        progress: i/N of the schedule.
        ede: its bounds.

    Returns:
        Path of the layer → 0 to 1.
    """
    shares = {}
    for path, layer in binary_layers(model):
        method = METHODS[layer.method]
        normed, _ = standardize(layer._filters(layer.weight))
        state = torch.tensor(
            method.schedule(progress, ede.t_min, ede.t_max), dtype=normed.dtype, device=normed.device
        )
        shares[path] = float(_saturated(method, normed, state))
    return shares


def _saturated(method: Method, x: Tensor, state: Tensor) -> Tensor:
    """The share of ``x`` at which the surrogate's slope is under 1 % of its peak, a float64 scalar."""
    slope = method.surrogate(x, torch.ones_like(x), state)
    peak = method.surrogate(x.new_zeros(1), x.new_ones(1), state)
    return (slope < SATURATED * peak).double().mean()


@contextmanager
def watched_inputs(model: nn.Module, wanted: bool = True) -> Iterator[dict[str, list[Tensor]]]:
    """Note, of each call of a layer that takes the sign of its input, the share of it that is saturated.

    Nothing waits for the device: what is noted stays there until :func:`saturated_inputs` asks.

    Args:
        model: with binary layers or none, at the k and t of the step.
        wanted: False watches nothing.

    Yields:
        Path of the layer → a float64 scalar for each call.
    """
    found: dict[str, list[Tensor]] = {}

    def watch(path: str, layer: BinaryLayer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                x = layer.shifted(args[0].detach())
                share = _saturated(METHODS[layer.method], x.to(layer.ede.dtype), layer.ede)
            found.setdefault(path, []).append(share)

        return look

    layers = [each for each in binary_layers(model) if each[1].takes_signs] if wanted else []
    handles = [layer.operator.register_forward_pre_hook(watch(path, layer)) for path, layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def saturated_inputs(noted: Mapping[str, list[Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """What :func:`watched_inputs` noted, as means over calls and processes; to be called by all of them.

    Returns:
        Path of the layer → 0 to 1.
    """
    if not noted:
        return {}
    means = torch.stack([torch.stack(shares).mean() for shares in noted.values()])
    return dict(zip(noted, reduced(accelerator, means, "mean").tolist(), strict=True))


def describe_epoch(
    model: nn.Module, before: Mapping[str, Tensor], progress: float, ede: EdeSpec
) -> dict[str, Any]:
    """What the log says of the binary layers at the end of an epoch.

    Args:
        model: with binary layers.
        before: ``packed_signs`` of it at the epoch's beginning.
        progress: i/N of the surrogate's schedule, after the epoch.
        ede: its bounds.

    Returns:
        ``progress``; ``ede`` with ``k`` and ``t``; ``flipped``, the share of all binary weights whose sign is
        another than at the epoch's beginning, and ``flipped_layers`` by path; ``saturated_layers`` by path.
        All shares are 0 to 1.
    """
    now, flips, counts = packed_signs(model), {}, {}
    for path, layer in binary_layers(model):
        # The bits that fill up the last byte are 0 in both.
        flips[path] = int(np.unpackbits(np.bitwise_xor(now[path].numpy(), before[path].numpy())).sum())
        counts[path] = layer.weight.numel()
    method = next(METHODS[layer.method] for _, layer in binary_layers(model))
    k, t = method.schedule(progress, ede.t_min, ede.t_max)
    return {
        "progress": progress,
        "ede": {"k": k, "t": t},
        "flipped": sum(flips.values()) / max(sum(counts.values()), 1),
        "flipped_layers": {path: flips[path] / counts[path] for path in flips},
        "saturated_layers": saturation(model, progress, ede),
    }
