"""Latents at a magnitude of one's choice: what that leaves as it is, and what it changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irnet_convert.binary.irnet import standardize
from irnet_convert.errors import ArgumentError
from irnet_convert.layers.model import layers_of


@torch.no_grad()
def rescale_latents(model: nn.Module, std: float) -> None:
    """Multiply the latents of every output channel so that their standard deviation is ``std``.

    With w' = c·w, ŵ = (w − mean(w))/σ stays what it is, so signs, the power of two and all that the network
    computes do too. What changes is how far a step moves ŵ. The gradient to w is (1/σ)·[...] (libra_pb), so
    that of w' is 1/c of it: a step of SGD moves ŵ' by lr·(g/c)/(c·σ), which goes as 1/σ'², one of Adam, whose
    steps have length lr in w', as lr/σ'. Pretrained filters differ in σ by orders of magnitude: small ones
    flip their signs at every step, large ones never. Afterwards one learning rate means the same to all.

    Filters that are constant stay as they are. Where weights are real for a while (``set_binarized``), a
    layer without a scale computes c times what it did, which the normalisation behind it takes away, and its
    running statistics do not know yet.

    Args:
        model: any module with binary layers in it.
        std: σ', above 0.

    Raises:
        ArgumentError: ``std`` is out of range.
        ModelError: there is no binary layer.
    """
    if not 0 < std < float("inf"):
        raise ArgumentError(
            f"std={std!r} for the latents", expected="a number above 0", mend="0.1 is a usual choice"
        )
    for layer in layers_of(model):
        rescaled = _rescaled(layer._filters(layer.weight.detach()), std)
        layer.weight.copy_(layer._from_filters(rescaled))


def _rescaled(filters: Tensor, std: float) -> Tensor:
    normed, flat = standardize(filters)
    before = normed >= 0
    wide = torch.float32 if filters.device.type == "mps" else torch.float64
    sigma = filters.flatten(1).to(wide).std(1).reshape(flat.shape)
    new = torch.where(flat, filters, (filters.to(wide) * (std / sigma)).to(filters.dtype))
    # A product is rounded: a weight within that of its filter's mean may come to lie on its other side.
    nudge = std * torch.finfo(filters.dtype).eps
    for _ in range(20):
        wrong = ((standardize(new)[0] >= 0) != before) & ~flat
        if not bool(wrong.any()):
            break
        mean = new.flatten(1).to(wide).mean(1).reshape(flat.shape)
        new = torch.where(wrong, (mean + torch.where(before, nudge, -nudge)).to(new.dtype), new)
        nudge *= 2
    return new
