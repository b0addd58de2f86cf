"""What a binary layer contracts with: its weights as ±2^s, and the factor per output channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.binary.sign import shape_only
from irnet_convert.layers.made import MadeWeight
from irnet_convert.layers.real import magnitude
from irnet_convert.layers.surrogate import SurrogateState

#: Weights of which a copy is made at a time where the initial scale is computed.
_AT_ONCE = 1 << 16


class LayerWeights(SurrogateState):
    """How a :class:`~irnet_convert.layers.BinaryLayer` makes its weights, wherever its filters lie."""

    takes_scale: ClassVar[bool] = True
    real_weights: bool = False
    real_activations: bool = False

    act_bits: int
    scale: nn.Parameter | None

    @property
    def takes_signs(self) -> bool:
        """Whether the sign of the input is taken: ``act_bits`` is 1, and activations are not real for now."""
        return self.act_bits == 1 and not self.real_activations

    @property
    def scales_sums(self) -> bool:
        """Whether there is a factor per output channel and it is multiplied with the sums, which are of ±1
        and ±2^s, and not with the weights.
        """
        return self.takes_signs and not self.real_weights and self._factor() is not None

    def _filters(self, weight: Tensor) -> Tensor:
        """The weights with the output channel in front: (out, what one output channel is made of, ...)."""
        return weight

    def _from_filters(self, filters: Tensor) -> Tensor:
        """The inverse of :meth:`_filters`."""
        return filters

    def binary_weight(self) -> Tensor:
        """The ±2^s weights that the forward pass uses, without any scale.

        Returns:
            Shape, dtype and device of ``weight``; differentiable in it.
        """
        filters = METHODS[self.method].binarize_weight(self._filters(self.weight), self._ede_of_this_pass())
        return self._from_filters(filters).to(self.weight.dtype)

    def _scaled_weight(self, ede: Tensor) -> Tensor:
        """±2^s times the factor per output channel, rounded to the weight's dtype once."""
        return self._weight_of(self.weight, self._factor(), ede)

    def _weight_of(self, latent: Tensor, factor: Tensor | None, ede: Tensor) -> Tensor:
        if shape_only(latent):
            return latent.detach().clone()
        filters = self._filters(latent)
        if self.real_weights:
            filters = self._real_filters(filters, at_factor=factor is not None and self.takes_scale)
        else:
            filters = METHODS[self.method].binarize_weight(filters, ede)
        if factor is not None:
            filters = filters * factor.reshape(-1, *[1] * (filters.dim() - 1)).to(filters.dtype)
        return self._from_filters(filters).to(latent.dtype)

    def _real_filters(self, filters: Tensor, *, at_factor: bool) -> Tensor:
        """The weights as the dense layer convolves with them, (out, ...), differentiable.

        Args:
            filters: latents.
            at_factor: divide each filter by its magnitude, which the factor per output channel then gives it.
                The factor begins as that magnitude, so that nothing changes, and it means the same before and
                after weights become binary.
        """
        return filters / magnitude(filters) if at_factor else filters

    def _made_weight(self) -> MadeWeight:
        """:meth:`_scaled_weight`, yet to be made."""
        return MadeWeight(
            latent=self.weight, factor=self._factor(), make=self._weight_of, even=not self.real_weights
        )

    def _factor(self) -> Tensor | None:
        """The factor per output channel, of any shape with (out,) elements."""
        return self.scale

    def _initial_scale(self, weight: Tensor) -> Tensor:
        """mean|w − mean(w)| per output channel: the magnitude that binarization takes from the weights.

        Args:
            weight: latents, shape of the layer's weight.

        Returns:
            (out,), dtype and device of ``weight``.
        """
        if weight.is_meta:  # as shape_only says of the weight itself
            return weight.new_empty(self._filters(weight).shape[0])
        wide = torch.promote_types(weight.dtype, torch.float32)
        filters = self._filters(weight.detach())
        # A few filters at a time: a conversion in place must not hold a large layer's weights twice.
        some = max(1, _AT_ONCE // filters[0].numel())
        parts = (part.flatten(1).to(wide) for part in filters.split(some))
        found = [(part - part.mean(1, keepdim=True)).abs_().mean(1) for part in parts]
        return torch.cat(found).to(weight.dtype)

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Set the scale, where there is one, from the latents: after these were changed by hand."""
        # The dense constructor initialises before there is a scale.
        scale = self._parameters.get("scale")
        if scale is not None:
            scale.copy_(self._initial_scale(self.weight))
