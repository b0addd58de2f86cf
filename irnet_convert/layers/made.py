"""A binary weight by what it is made of: what is kept of it, and how it is made again in a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from irnet_convert.binary.sign import watched

Make = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MadeWeight:
    """A weight by what it is made of.

    Attributes:
        latent: real-valued weights.
        factor: per output channel, (O,) in any shape, or None.
        make: (latent, factor or None for 1, state of the surrogate) → the weight; differentiable in the first
            two.
        even: without the factor every weight of one output channel has the same magnitude, a power of two.
    """

    latent: Tensor
    factor: Tensor | None
    make: Make
    even: bool = False


@dataclass(frozen=True)
class How:
    """How a weight is made.

    Attributes:
        make: as in :class:`MadeWeight`; None for a weight that is made already.
        even: as in :class:`MadeWeight`. If not, the factor is multiplied with the weights and not with the
            sums; in weights that are made already it is.
        in_bits: of a weight that is made already its signs are kept, and its magnitudes.
    """

    make: Make | None
    even: bool
    in_bits: bool

    def weight(self, latent: Tensor, factor: Tensor | None, state: Tensor) -> Tensor:
        """What the signs are contracted with."""
        return latent if self.make is None else self.make(latent, None if self.even else factor, state)

    def kept(self, latent: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What :class:`Again` needs of them."""
        if not self.in_bits:
            return latent, factor
        return latent >= 0, latent.flatten(1)[:, 0].abs().reshape(-1, *[1] * (latent.dim() - 1))


def parts_of(weight: Tensor | MadeWeight, state: Tensor) -> tuple[Tensor, Tensor | None, How]:
    """Latents, factor and how the weight is made of them.

    Code that is being compiled is given a weight that is made already, as a compiler decides itself what to
    keep. It would keep a binary one as it is, beside the latents: of what a convolution takes backward, a
    compiler makes nothing again. Hence the bits, a byte each. With a factor, which large linear layers have,
    they cost 4 % of a ViT's step to read and are not worth it.
    """
    if isinstance(weight, Tensor):
        return weight, None, How(None, False, False)
    if not watched():
        return weight.latent, weight.factor, How(weight.make, weight.even, False)
    if not weight.even:
        return weight.make(weight.latent, weight.factor, state), None, How(None, False, False)
    made = weight.make(weight.latent, None, state)
    return made, weight.factor, How(None, True, torch.compiler.is_compiling() and weight.factor is None)


class Again:
    """A weight made again in a backward pass, and the way back from its gradient.

    Args:
        how: it is made.
        latent: what ``how`` kept.
        factor: what ``how`` kept.
        state: of the surrogate.
        wanted: whether a gradient to the latents is, and one to the factor.

    Attributes:
        value: the weight, its factor included.
    """

    def __init__(
        self, how: How, latent: Tensor, factor: Tensor | None, state: Tensor, wanted: tuple[bool, bool]
    ) -> None:
        make, self._how, self._wanted = how.make, how, wanted
        # In a backward pass that is differentiated itself, the weight hangs on the tensors that were kept.
        self._again = torch.is_grad_enabled()
        if make is None:
            self._parts = latent, factor
            if factor is None:
                self.value = latent
            elif how.in_bits:
                self.value = torch.where(latent, factor, -factor)
            else:
                self.value = latent * _per_output(factor, latent)
            return
        if not self._again:
            latent = latent.detach().requires_grad_(wanted[0])
            factor = None if factor is None else factor.detach().requires_grad_(wanted[1])
        self._parts = latent, factor
        with torch.enable_grad():
            self._weight = make(latent, factor, state)
        self.value = self._weight if self._again else self._weight.detach()

    def gradients(self, of_weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients to the latents and the factor, from that of the weight in any dtype."""
        if of_weight is None or not any(self._wanted):
            return None, None
        of_weight = of_weight.to(self.value.dtype)
        latent, factor = self._parts
        if self._how.make is None:
            if factor is None or self._how.in_bits:
                return of_weight, None
            of_factor = (of_weight * latent).flatten(1).sum(1).reshape(factor.shape)
            return of_weight * _per_output(factor, latent), of_factor.to(factor.dtype)
        wanted = [t for t, wish in zip(self._parts, self._wanted, strict=True) if t is not None and wish]
        found = iter(torch.autograd.grad(self._weight, wanted, of_weight, create_graph=self._again))
        return next(found) if self._wanted[0] else None, next(found) if self._wanted[1] else None


def _per_output(factor: Tensor, weight: Tensor) -> Tensor:
    return factor.reshape(-1, *[1] * (weight.dim() - 1)).to(weight.dtype)
