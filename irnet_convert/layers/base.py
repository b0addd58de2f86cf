"""What every binary layer shares: latents, scale, EDE state, loading, and adopting a dense layer.

A family (conv, linear, Same padding, ...) is a class that puts :class:`BinaryLayer` in front of the PyTorch
layer it is a subclass of, and says how the binarized operands meet (``_contract``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.errors import ArgumentError
from irnet_convert.layers.options import Options, check_options
from irnet_convert.layers.plain import PlainForm
from irnet_convert.layers.signed import scale_sums


class BinaryLayer(PlainForm):
    """Mixin: a layer whose weights, and by default inputs, are binary in the forward pass.

    ``weight`` holds the real-valued latents under the dense layer's name, so that a full-precision checkpoint
    loads strictly. The truth about the surrogate gradient is in plain floats (``progress``, ``t_min``,
    ``t_max``); the non-persistent buffer ``ede`` = [k, t] is only their copy on the device, and is filled
    anew whenever the module is moved, cast, emptied or loaded. The values of the forward pass never depend
    on it.

    Attributes:
        method: a key of METHODS.
        weight_bits: 1.
        act_bits: 1 (the input's sign is taken) or 32 (the input is used as it is).
        scale: learnable factor per output channel, (out,), or None where a normalisation follows.
        threshold: learnable, per input channel: +1 where the input is at least that; or None for 0.
        real_weights: the weights are used as they are for now: see ``set_binarized``.
        real_activations: the input is used as it is for now.
        compact: one byte of each number of the input is kept for the backward pass: see ``set_compact``.
        progress: how much of the training is done, 0 to 1; read-only by habit, see :meth:`set_progress`.
        t_min: lower bound of the surrogate's schedule.
        t_max: upper bound of the surrogate's schedule.
        takes_scale: False for a family that has a factor per channel of its own.
        trailing: dimensions of the input behind its channels.
        weight_name: the name under which the family's module keeps its latents.
    """

    dense_kind: ClassVar[type[nn.Module]]
    weight_bits: ClassVar[int] = 1
    weight_name: ClassVar[str] = "weight"
    trailing: ClassVar[int] = 0
    compact: bool = False

    method: str
    progress: float
    t_min: float
    t_max: float
    weight: Tensor
    bias: Tensor | None
    ede: Tensor
    threshold: nn.Parameter | None

    @classmethod
    def from_dense(
        cls,
        layer: nn.Module,
        *,
        method: str = "irnet",
        act_bits: int = 1,
        scale: bool = False,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> Self:
        """The binary layer that takes a dense layer's place.

        Parameters, hooks (with their handles), the training flag and extra attributes are the given layer's
        own objects; do not use that layer afterwards. ``table.binary_class_of`` says which class to call.

        Args:
            layer: a plain layer of this family, with fan-in of at least the method's ``min_fan_in``.
            method: a key of METHODS.
            act_bits: 1 or 32.
            scale: give it the learnable factor per output channel, set from the weights now, and trained if
                the weights are.
            t_min: start of the surrogate's schedule; the method's own if None.
            t_max: end of the surrogate's schedule; the method's own if None.

        Raises:
            ArgumentError: another kind of layer, a fan-in too small, or a value out of range.
            UnknownNameError: no such method.
        """
        if not isinstance(layer, cls.dense_kind) or isinstance(layer, BinaryLayer):
            raise ArgumentError(
                f"a {type(layer).__name__} for {cls.__name__}.from_dense",
                expected=f"a {cls.dense_kind.__name__} that is not binary yet",
                mend="ask irnet_convert.layers.binary_class_of(layer) which class takes it",
            )
        options = cls._options(cls.fan_in_of(layer), method, act_bits, scale, t_min, t_max)
        new = cls.__new__(cls)
        # Hook dictionaries stay the same objects, since handles remove by them. Those that are about to
        # change are copied, so that the given layer stays whole.
        new.__dict__ = dict(layer.__dict__)
        for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            new.__dict__[name] = new.__dict__[name].copy()
        new._adopted()
        new._make_binary(options)
        return new

    @classmethod
    def fan_in_of(cls, layer: nn.Module) -> int:
        """How many weights make one output channel of ``layer``: what Libra-PB takes its statistics over."""
        weight = layer.get_parameter(cls.weight_name)
        return weight[0].numel() if len(weight) else 0

    @classmethod
    def _options(cls, fan_in: int, *options: Any) -> Options:
        """This family's options, validated (see ``check_options`` for their order)."""
        return check_options(fan_in, *options, kind=cls.__name__, takes_scale=cls.takes_scale)

    def _adopted(self) -> None:
        """For families whose dense layer has attributes under names that mean something else here."""

    def _make_binary(self, options: Options) -> None:
        """Add the binary state to a module that already is a whole dense layer."""
        self.method, self.act_bits = options.method, options.act_bits
        self.t_min, self.t_max, self.progress = options.t_min, options.t_max, 0.0
        self.register_parameter("scale", None)
        if options.scale:
            self.scale = nn.Parameter(
                self._initial_scale(self.weight.detach()), requires_grad=self.weight.requires_grad
            )
        self.register_parameter("threshold", None)
        self.register_buffer("ede", None, persistent=False)
        self._fill_ede()

    def add_threshold(self) -> None:
        """Give it a learnable threshold per input channel, which begins at 0 (see :attr:`threshold`)."""
        weight = self.weight
        self.threshold = nn.Parameter(
            weight.new_zeros(self.input_channels), requires_grad=weight.requires_grad
        )

    # -- the forward pass

    @property
    def input_channels(self) -> int:
        """Channels, or features, of the input."""
        return getattr(self, "in_channels", 0) or getattr(self, "in_features", 0)

    def shifted(self, x: Tensor) -> Tensor:
        """The input less the threshold: what the sign is taken of. A real activation is shifted likewise."""
        if self.threshold is None:
            return x
        return x - self.threshold.reshape(-1, *[1] * self.trailing).to(x.dtype)

    @property
    def operator(self) -> nn.Module:
        """The module each of whose calls is one product with the binary weight: the layer itself, unless it
        does more than that.
        """
        return self

    def forward(
        self,
        input: Tensor,
        zero_pad: Sequence[int] | None = None,
        bias: Tensor | Literal[True] | None = True,
        **how: Any,
    ) -> Tensor:
        """Sign, then padding, then the layer's own arithmetic on binary weights.

        Sums of signs are made of ±2^s, which is exact, and then multiplied by the factor per output channel:
        ten of +scale and ten of −scale would seldom sum to 0, and the next sign may hang on that.

        Args:
            input: as the dense layer takes it.
            zero_pad: amounts as for ``F.pad``. Applied after the sign, so that a padded place contributes 0:
                what an explicit zero padding in front of the dense layer becomes.
            bias: of a linear layer: True for its own, else what takes its place.
            **how: what else this family's ``_contract`` takes.

        Returns:
            As the dense layer does.
        """
        ede, input = self._ede_of_this_pass(), self.shifted(input)
        added = self.bias if bias is True else bias
        if self.takes_signs:
            return self._contract_signs(input, ede, added, zero_pad, **how)
        if zero_pad is not None:
            input = F.pad(input, list(zero_pad))
        return self._contract(input, self._scaled_weight(ede), added, **how)

    def _contract_signs(
        self, x: Tensor, ede: Tensor, bias: Tensor | None, zero_pad: Sequence[int] | None, **how: Any
    ) -> Tensor:
        """``_contract`` on the signs of x. Families whose arithmetic allows it keep one tensor of x for the
        backward pass instead of two, and none of the weight and the sums (layers/signed.py).
        """
        signs = METHODS[self.method].binarize_activation(x, ede)
        if zero_pad is not None:
            signs = F.pad(signs, list(zero_pad))
        factor = None if self.real_weights else self._factor()
        if factor is None:
            return self._contract(signs, self._scaled_weight(ede), bias, **how)
        sums = self._contract(signs, self._weight_of(self.weight, None, ede), None, **how)
        return scale_sums(sums, factor, bias, self.trailing)

    def _contract(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's own arithmetic: x, weight and bias as they are."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialise the latents and bias as the dense layer does, and the scale from them."""
        super().reset_parameters()  # type: ignore[misc]
        self.reset_scale()

    # -- loading

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight = state_dict.get(prefix + self.weight_name)
        # A checkpoint of the dense network has no threshold, and no scale: that follows from its weights.
        if self.threshold is not None and prefix + "threshold" not in state_dict and weight is not None:
            state_dict[prefix + "threshold"] = torch.zeros_like(self.threshold)
        if (
            self.scale is not None
            and prefix + "scale" not in state_dict
            and isinstance(weight, Tensor)
            and weight.shape == self.weight.shape
        ):
            state_dict[prefix + "scale"] = self._initial_scale(weight)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # assign=True may have moved the weight, off the meta device for one.
        self._fill_ede()

    def extra_repr(self) -> str:
        """The dense layer's, with the bits."""
        scale = ", scale=True" if self.scale is not None else ""
        scale += ", threshold=True" if self.threshold is not None else ""
        real = ", real_weights=True" if self.real_weights else ""
        real += ", real_activations=True" if self.real_activations else ""
        real += ", compact=True" if self.compact else ""
        dense = super().extra_repr()
        return f"{dense}{', ' if dense else ''}method={self.method!r}, act_bits={self.act_bits}{scale}{real}"
