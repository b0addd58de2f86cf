"""A linear layer with a BatchNorm of its inputs in front, under the linear layer's own keys."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn


class NormedLinear(nn.Linear):
    """linear(norm(x)), with ``norm`` an nn.BatchNorm1d over the input features.

    IR-Net's CIFAR networks have such a BatchNorm before the classifier. In evaluation mode it begins as the
    linear layer alone (but for its ε), with running statistics of mean 0 and variance 1.
    """

    norm: nn.BatchNorm1d

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The layer that takes a linear layer's place, with its own parameters, hooks and attributes."""
        new = cls.__new__(cls)
        new.__dict__ = dict(layer.__dict__)
        new.__dict__["_modules"] = layer._modules.copy()  # the given layer stays whole
        new.norm = nn.BatchNorm1d(
            layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype
        ).train(layer.training)
        return new

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_features) → (N, out_features)."""
        return super().forward(self.norm(input))
