"""A binary layer in plain form: an explicit sign and a dense layer, for other exporters."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from irnet_convert.layers.dense import Shift, Sign, SignedLayer
from irnet_convert.layers.weights import LayerWeights


class PlainForm(LayerWeights):
    """What :class:`~irnet_convert.layers.BinaryLayer` turns into, and how."""

    trailing: ClassVar[int]
    bias: Tensor | None
    threshold: nn.Parameter | None

    def to_dense(self) -> nn.Module:
        """A copy with plain layers only, that computes the same, for other exporters.

        The plain layer's weights are ±2^s. Before it comes an explicit :class:`Sign` (for ``act_bits`` 1), in
        a :class:`SignedLayer`, which multiplies by the scale, where there is one, and adds the bias then;
        with real activations the scale is in the weights. Hooks are not carried over, and the sign has no
        surrogate gradient: this form is for inference.
        """
        same = bool(getattr(self, "same_pad", False))
        entrance, factor = self._entrance(), None
        with torch.no_grad():
            if self.scales_sums:
                factor = self._factor()
                layer = self._plain_layer(self.binary_weight())
            else:
                layer = self._plain_layer(self._scaled_weight(self.ede))
        if entrance is None and not same:
            return layer
        if factor is None:
            return SignedLayer(layer, sign=entrance, same_pad=same).train(self.training)
        bias, layer._parameters["bias"] = layer._parameters["bias"], None
        factor = factor.detach().clone()
        return SignedLayer(layer, sign=entrance, same_pad=same, scale=factor, bias=bias).train(self.training)

    def _entrance(self) -> Sign | Shift | None:
        """What the input goes through first, in plain form."""
        threshold = None
        if self.threshold is not None:
            threshold = self.threshold.detach().reshape(-1, *[1] * self.trailing).clone()
        if self.takes_signs:
            return Sign(threshold)
        return None if threshold is None else Shift(threshold)

    def _plain_layer(self, weight: Tensor) -> nn.Module:
        """A new dense layer of this geometry that holds these weights and a copy of the bias."""
        plain = self._empty_plain()
        plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=self.weight.requires_grad)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return plain.train(self.training)

    def _empty_plain(self) -> nn.Module:
        """A dense layer of this geometry on the meta device."""
        raise NotImplementedError
