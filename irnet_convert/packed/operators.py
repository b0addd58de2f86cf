"""The operators that the PyTorch parts of a packed network may call: a literal table, nothing else.

None of them runs code, reads files or draws random numbers, and none writes to its arguments.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from irnet_convert.errors import nearest
from irnet_convert.packed.strict import malformed

#: Overloads of torch.ops.aten.
_OVERLOADS = """
    _softmax.default _to_copy.default _unsafe_view.default abs.default adaptive_avg_pool1d.default
    adaptive_avg_pool2d.default adaptive_max_pool2d.default add.Scalar add.Tensor addcmul.default
    addmm.default alias.default all.dim amax.default amin.default any.dim arange.default arange.start
    arange.start_step argmax.default
    argsort.default as_strided_copy.default avg_pool1d.default avg_pool2d.default avg_pool3d.default
    baddbmm.default batch_norm.default
    bitwise_and.Scalar bitwise_and.Tensor bitwise_not.default bitwise_or.Tensor bmm.default
    cat.default celu.default chunk.default clamp.default clamp.Tensor clamp_max.default clamp_min.default
    clone.default constant_pad_nd.default contiguous.default conv1d.default conv1d.padding conv2d.default
    conv2d.padding conv3d.default conv3d.padding conv_transpose1d.default conv_transpose2d.input
    conv_transpose3d.input convolution.default copy.default cos.default cumsum.default detach.default
    diagonal.default div.Scalar div.Tensor div.Tensor_mode dropout.default einsum.default elu.default
    embedding.default empty_like.default eq.Scalar eq.Tensor erf.default exp.default expand.default
    expand_as.default expm1.default flatten.using_ints flip.default floor.default floor_divide.default
    fmod.Scalar full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default glu.default
    grid_sampler.default grid_sampler_2d.default group_norm.default gt.Scalar gt.Tensor hardsigmoid.default
    hardswish.default hardtanh.default index.Tensor index_put.default index_select.default
    instance_norm.default isinf.default isnan.default layer_norm.default le.Scalar le.Tensor
    leaky_relu.default lift_fresh_copy.default linalg_vector_norm.default linear.default linspace.default
    log.default log1p.default log2.default log_softmax.int logical_and.default logical_not.default
    logical_or.default lt.Scalar lt.Tensor masked_fill.Scalar masked_fill.Tensor matmul.default
    max.default max.dim max_pool1d.default max_pool2d.default max_pool2d_with_indices.default
    max_pool3d.default maximum.default mean.default mean.dim meshgrid.indexing min.default min.dim
    minimum.default mish.default mm.default movedim.int mul.Scalar mul.Tensor native_batch_norm.default
    native_group_norm.default native_layer_norm.default _native_batch_norm_legit_no_training.default
    _native_batch_norm_legit.no_stats ne.Scalar ne.Tensor neg.default new_empty.default new_full.default
    new_ones.default new_zeros.default norm.ScalarOpt_dim numpy_T.default ones.default ones_like.default
    outer.default pad.default permute.default pixel_shuffle.default pixel_unshuffle.default
    pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu.default _prelu_kernel.default reciprocal.default
    reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default relu.default relu6.default
    remainder.Scalar repeat.default repeat_interleave.self_int replication_pad1d.default
    replication_pad2d.default replication_pad3d.default reshape.default rms_norm.default
    _fused_rms_norm.default
    roll.default rsqrt.default rsub.Scalar scaled_dot_product_attention.default scatter.src scatter.value
    select.int select_copy.int select_scatter.default selu.default sigmoid.default sign.default silu.default
    sin.default slice.Tensor slice_scatter.default softmax.int softplus.default sort.default split.Tensor
    split_with_sizes.default sqrt.default square.default squeeze.default squeeze.dim squeeze.dims
    stack.default
    std.correction sub.Scalar sub.Tensor sum.default sum.dim_IntList sym_numel.default sym_size.int t.default
    tan.default tanh.default tile.default to.dtype topk.default transpose.int tril.default triu.default
    unbind.int unflatten.int unfold.default unsqueeze.default upsample_bicubic2d.default
    upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_nearest2d.default
    upsample_nearest2d.vec _upsample_bilinear2d_aa.default var.correction var_mean.correction
    view.default view_as.default where.Scalar where.ScalarOther where.ScalarSelf where.self zeros.default
    zeros_like.default
"""
_ATEN = frozenset(_OVERLOADS.split())

#: Arithmetic with sizes.
_PLAIN: dict[str, Callable[..., Any]] = {
    "operator.add": operator.add,
    "operator.eq": operator.eq,
    "operator.floordiv": operator.floordiv,
    "operator.ge": operator.ge,
    "operator.gt": operator.gt,
    "operator.le": operator.le,
    "operator.lt": operator.lt,
    "operator.mod": operator.mod,
    "operator.mul": operator.mul,
    "operator.ne": operator.ne,
    "operator.neg": operator.neg,
    "operator.pow": operator.pow,
    "operator.sub": operator.sub,
    "operator.truediv": operator.truediv,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}


@functools.cache
def _names() -> dict[Any, str]:
    return {function: name for name, function in _PLAIN.items()}


def name_of(target: Any) -> str | None:
    """The name of an operator in the table, or None if it is not there."""
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        short = name.removeprefix("aten.")
        return name if name != short and short in _ATEN else None
    try:
        return _names().get(target)
    except TypeError:  # not hashable
        return None


def check_operator(name: str, where: str) -> None:
    """Refuse a name that is not in the table.

    Raises:
        ProgramError: the name is not known here.
    """
    if name not in _PLAIN and not (name.startswith("aten.") and name[5:] in _ATEN):
        known = [f"aten.{n}" for n in _ATEN]
        raise malformed(f"{where} calls the unknown operator {name[:60]!r}", nearest(name[:60], known))


def check_keywords(name: str, keywords: Sequence[str], where: str) -> None:
    """Refuse keywords that the operator does not have: fx writes them into the code that it compiles.

    Raises:
        ProgramError: an unknown keyword, or one that is there twice.
    """
    if not keywords:
        return
    found = operator_of(name)
    known = [a.name for a in found._schema.arguments] if isinstance(found, torch._ops.OpOverload) else []
    for keyword in keywords:
        if keyword not in known:
            raise malformed(f"{where} has the unknown keyword {keyword[:60]!r}", nearest(keyword[:60], known))
    if len(set(keywords)) != len(keywords):
        raise malformed(f"{where} has a keyword twice", "each once")


def operator_of(name: str) -> Callable[..., Any]:
    """The operator of that name.

    Raises:
        ProgramError: not in the table, or this PyTorch has none of that name.
    """
    check_operator(name, "the network")
    if name in _PLAIN:
        return _PLAIN[name]
    packet, overload = name[5:].split(".")
    try:
        return getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError as error:
        raise malformed(
            f"{name}, which PyTorch {torch.__version__} lacks", "another PyTorch version"
        ) from error
