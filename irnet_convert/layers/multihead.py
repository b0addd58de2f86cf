"""BinaryMultiheadAttention: a true subclass of nn.MultiheadAttention whose packed projection is binary.

nn.MultiheadAttention keeps the weights of its three input projections in one parameter (3·E, E) and no
layer, and hands them and those of its ``out_proj`` to one function. Here both are called: ``out_proj`` as
the layer that it is, the input projections as a child without parameters of its own, so that state-dict keys
stay what they are and every projection can be watched, and packed, as any other layer's call.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.errors import ArgumentError
from irnet_convert.layers.attention import attention
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.dense import Shift
from irnet_convert.layers.signed import scale_sums, signed_linear

#: The child's name.
PROJECTION = "in_proj"


class InProjection(nn.Module):
    """The call of an attention's packed input projection. It holds no parameter; the attention does.

    Args:
        owner: the attention.
    """

    def __init__(self, owner: CalledAttention) -> None:
        super().__init__()
        self.owner = (owner,)  # in a tuple, so that the parent is not its child's child

    def forward(self, input: Tensor, *, rows: slice | None = None) -> Tensor:
        """Project.

        Args:
            input: (..., E).
            rows: those of the packed weight that are meant, where query, key and value differ; all if None.

        Returns:
            (..., 3·E), or as many features as rows.
        """
        return self.owner[0].project(input, rows)


class _Rows(NamedTuple):
    """Rows of the packed weight, in the place of the weight itself."""

    start: int
    stop: int

    def split(self, sizes: list[int]) -> list[_Rows]:
        """As a tensor's split, along the first dimension."""
        ends = [self.start + sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [_Rows(end - size, end) for end, size in zip(ends, sizes, strict=True)]


#: What a dense attention consists of.
_STATE = (
    "embed_dim", "kdim", "vdim", "_qkv_same_embed_dim", "num_heads", "head_dim", "dropout", "batch_first",
    "add_zero_attn", "training", "in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight",
    "v_proj_weight", "bias_k", "bias_v", "out_proj",
)  # fmt: skip


class CalledAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention that calls its projections. PyTorch's fused evaluation path is never taken."""

    in_proj: InProjection

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's, nested tensors excepted."""
        across = self.batch_first and query.dim() == 3
        if across:  # one tensor stays one: that says how often to project
            turned = query.transpose(0, 1)
            new_key = turned if key is query else key.transpose(0, 1)
            value = new_key if value is key else turned if value is query else value.transpose(0, 1)
            query, key = turned, new_key
        output, weights = attention(
            self._linear, query, key, value, self.embed_dim, self.num_heads, _Rows(0, 3 * self.embed_dim),
            None, self.bias_k, self.bias_v, self.add_zero_attn, self.dropout, None, None,
            training=self.training, key_padding_mask=key_padding_mask, need_weights=need_weights,
            attn_mask=attn_mask, average_attn_weights=average_attn_weights, is_causal=is_causal,
        )  # fmt: skip
        return (output.transpose(0, 1) if across else output), weights

    def _linear(self, x: Tensor, weight: Any, bias: Any) -> Tensor:
        if not isinstance(weight, _Rows):
            return self.out_proj(x)
        if weight == (0, 3 * self.embed_dim):
            return self.in_proj(x)
        return self.in_proj(x, rows=slice(weight.start, weight.stop))

    def project(self, input: Tensor, rows: slice | None = None) -> Tensor:
        """What :class:`InProjection` does."""
        raise NotImplementedError


class SignedAttention(CalledAttention):
    """Plain form of a binary attention: an explicit sign before each projection, real arithmetic.

    Attributes:
        sign: the sign of the inputs, or None for real-valued ones.
        scale: factor per output channel of their product with the packed weight, (3·E,), or None.
    """

    sign: Shift | None
    scale: Tensor | None

    @classmethod
    def of(
        cls, attention: nn.MultiheadAttention, *, sign: Shift | None, scale: Tensor | None = None
    ) -> SignedAttention:
        """One with the parameters and children of ``attention``, which stays whole.

        Args:
            attention: dense or binary, with a packed weight.
            sign: the sign of the inputs, or None.
            scale: factor per output channel, (3·E,), or None.
        """
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        for name in _STATE:
            setattr(new, name, getattr(attention, name))
        new.in_proj, new.sign = InProjection(new), sign
        new.register_buffer("scale", scale)
        return new

    def project(self, input: Tensor, rows: slice | None = None) -> Tensor:
        """Sign, if there is one, and the dense projection."""
        x = input if self.sign is None else self.sign(input)
        weight, bias, scale = _of_rows(rows, self.in_proj_weight, self.in_proj_bias, self.scale)
        return F.linear(x, weight, bias) if scale is None else scale_sums(F.linear(x, weight), scale, bias, 0)


class BinaryMultiheadAttention(BinaryLayer, CalledAttention):
    """Attention whose packed input projection has binary weights and, by default, binary inputs.

    A row of the packed weight makes one output channel of the query's, the key's or the value's projection,
    and Libra-PB's statistics are a row's: the three parts are binarized alike whether they are applied at
    once or, in cross attention, each to its own input. ``weight``, ``bias`` and ``scale`` are of all three.
    ``out_proj`` is a layer of its own, binary or not.

    Args:
        embed_dim: as nn.MultiheadAttention; at least the method's minimum fan-in (3).
        num_heads: as nn.MultiheadAttention.
        dropout: as nn.MultiheadAttention.
        bias: as nn.MultiheadAttention.
        add_bias_kv: as nn.MultiheadAttention.
        add_zero_attn: as nn.MultiheadAttention.
        kdim: ``embed_dim`` or None: other widths have separate weights.
        vdim: ``embed_dim`` or None.
        batch_first: as nn.MultiheadAttention.
        device: as nn.MultiheadAttention.
        dtype: as nn.MultiheadAttention.
        method: a key of METHODS.
        act_bits: 1 or 32.
        scale: a learnable factor per output channel, (3·E,).
        t_min: start of the surrogate's schedule; the method's own if None.
        t_max: end of the surrogate's schedule; the method's own if None.

    Raises:
        ArgumentError: too small a fan-in, another width of key or value, or a value out of range.
        UnknownNameError: no such method.
    """

    dense_kind = nn.MultiheadAttention
    weight_name = "in_proj_weight"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        method: str = "irnet",
        act_bits: int = 1,
        scale: bool = False,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        options = self._options(embed_dim, method, act_bits, scale, t_min, t_max)
        if {kdim, vdim} - {None, embed_dim}:
            raise ArgumentError(
                f"kdim={kdim!r}, vdim={vdim!r} for BinaryMultiheadAttention",
                expected=f"the width of the queries, {embed_dim}: then the three weights are one",
                mend="leave them out, or keep this attention in full precision",
            )
        nn.MultiheadAttention.__init__(
            self, embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, None, None, batch_first,
            device, dtype,
        )  # fmt: skip
        self._adopted()
        self._make_binary(options)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The latents, ``in_proj_weight``: (3·E, E)."""
        return self.in_proj_weight

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``in_proj_bias``: (3·E,), or None."""
        return self.in_proj_bias

    @property
    def input_channels(self) -> int:
        """Features of the input."""
        return self.embed_dim

    @property
    def operator(self) -> nn.Module:
        """The child whose calls are the projection's."""
        return self.in_proj

    def _adopted(self) -> None:
        self.__dict__["_modules"] = self._modules.copy()  # the dense layer's does not get the new child
        self.add_module(PROJECTION, InProjection(self))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.MultiheadAttention's, nested tensors excepted."""
        return CalledAttention.forward(self, *args, **kwargs)

    def project(self, input: Tensor, rows: slice | None = None) -> Tensor:
        """Sign, and the product with those rows of the binary weight."""
        return BinaryLayer.forward(self, input, rows=rows)

    def _contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        return F.linear(x, *_of_rows(rows, weight, bias))

    def _contract_signs(
        self,
        x: Tensor,
        ede: Tensor,
        bias: Tensor | None,
        zero_pad: Sequence[int] | None,
        rows: slice | None = None,
        **how: Any,
    ) -> Tensor:
        made = self._made_weight()
        latent, factor, bias = _of_rows(rows, made.latent, made.factor, bias)
        made = replace(made, latent=latent, factor=factor)
        return signed_linear(x, made, bias, ede, METHODS[self.method], compact=self.compact)

    def reset_parameters(self) -> None:
        """Initialise as nn.MultiheadAttention does, and the scale from the latents."""
        self._reset_parameters()
        self.reset_scale()

    def to_dense(self) -> nn.Module:
        """As :meth:`BinaryLayer.to_dense`, with a binary ``out_proj`` in its plain form too."""
        with torch.no_grad():
            weight = self.binary_weight() if self.scales_sums else self._scaled_weight(self.ede)
        scale = self.scale.detach() if self.scale is not None and self.scales_sums else None
        plain = SignedAttention.of(self, sign=self._entrance(), scale=scale)
        plain = copy.deepcopy(plain, {id(self.in_proj_weight): _like(weight, self.in_proj_weight)})
        if isinstance(plain.out_proj, BinaryLayer):
            plain.out_proj = plain.out_proj.to_dense()  # pyright: ignore[reportAttributeAccessIssue]
        return plain


def _of_rows(rows: slice | None, *packed: Tensor | None) -> Any:
    """Those rows of each tensor that there is."""
    return packed if rows is None else tuple(None if t is None else t[rows] for t in packed)


def _like(tensor: Tensor, parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)
