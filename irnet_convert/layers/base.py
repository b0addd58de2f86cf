"""What every binary layer shares: latents, scale, EDE state, loading, and adopting a dense layer.

A family (conv, linear, Same padding, ...) is a class that puts :class:`BinaryLayer` in front of the PyTorch
layer it is a subclass of, and says how the binarized operands meet (``_contract``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.binary.sign import shape_only
from irnet_convert.errors import ArgumentError
from irnet_convert.layers.options import Options, check_options
from irnet_convert.layers.plain import PlainForm
from irnet_convert.layers.real import magnitude
from irnet_convert.layers.signed import MadeWeight
from irnet_convert.layers.surrogate import SurrogateState

#: Weights of which a copy is made at a time where the initial scale is computed.
_AT_ONCE = 1 << 16


class BinaryLayer(PlainForm, SurrogateState):
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
    takes_scale: ClassVar[bool] = True
    weight_bits: ClassVar[int] = 1
    weight_name: ClassVar[str] = "weight"
    trailing: ClassVar[int] = 0
    real_weights: bool = False
    real_activations: bool = False
    compact: bool = False

    method: str
    act_bits: int
    progress: float
    t_min: float
    t_max: float
    weight: Tensor
    bias: Tensor | None
    ede: Tensor
    scale: nn.Parameter | None
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
    def takes_signs(self) -> bool:
        """Whether the sign of the input is taken: ``act_bits`` is 1, and activations are not real for now."""
        return self.act_bits == 1 and not self.real_activations

    @property
    def operator(self) -> nn.Module:
        """The module each of whose calls is one product with the binary weight: the layer itself, unless it
        does more than that.
        """
        return self

    def forward(self, input: Tensor, zero_pad: Sequence[int] | None = None, **how: Any) -> Tensor:
        """Sign, then padding, then the layer's own arithmetic on binary weights.

        Args:
            input: as the dense layer takes it.
            zero_pad: amounts as for ``F.pad``. Applied after the sign, so that a padded place contributes 0:
                what an explicit zero padding in front of the dense layer becomes.
            **how: what else this family's ``_contract`` takes.

        Returns:
            As the dense layer does.
        """
        ede, input = self._ede_of_this_pass(), self.shifted(input)
        if self.takes_signs and zero_pad is None:
            return self._contract_signs(input, ede, **how)
        x = METHODS[self.method].binarize_activation(input, ede) if self.takes_signs else input
        if zero_pad is not None:
            x = F.pad(x, list(zero_pad))
        return self._contract(x, self._scaled_weight(ede), **how)

    def _contract_signs(self, x: Tensor, ede: Tensor, **how: Any) -> Tensor:
        """``_contract`` on the signs of x. Families whose arithmetic allows it keep one tensor of x for the
        backward pass instead of two, and none of the weight (layers/signed.py).
        """
        signs = METHODS[self.method].binarize_activation(x, ede)
        return self._contract(signs, self._scaled_weight(ede), **how)

    def _contract(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's own arithmetic: x and weight as they are, with its bias."""
        raise NotImplementedError

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
        factor = self._factor()
        even = factor is None and not self.real_weights
        return MadeWeight(latent=self.weight, factor=factor, make=self._weight_of, even=even)

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

    def reset_parameters(self) -> None:
        """Initialise the latents and bias as the dense layer does, and the scale from them."""
        super().reset_parameters()  # type: ignore[misc]
        self.reset_scale()

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Set the scale, where there is one, from the latents: after these were changed by hand."""
        # The dense constructor initialises before there is a scale.
        scale = self._parameters.get("scale")
        if scale is not None:
            scale.copy_(self._initial_scale(self.weight))

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
