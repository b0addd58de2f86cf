"""What "binary" means: tensors in, tensors out. METHODS is the table of ways to binarize.

A new method is one file here, one row in the table and one page in docs/; the contract tests run over the
table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from irnet_convert.binary.codes import coded_sign, ede_coded_gradient, ede_encode
from irnet_convert.binary.irnet import ede_schedule, libra_pb
from irnet_convert.binary.sign import ede_gradient, ede_sign, sign, signs_for_now
from irnet_convert.errors import UnknownNameError, nearest

__all__ = ["METHODS", "Method", "method", "sign"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to binarize: how weights and activations become binary and what their gradient is.

    Attributes:
        name: as users write it.
        binarize_weight: (latent (O, ...), state (2,)) → binary weights ±2^s of the same shape, in float32 at
            least; differentiable in the latent.
        binarize_activation: (x, state (2,)) → ±1, shape and dtype of x; differentiable in x.
        signs_for_now: (x, state) → the values of ``binarize_activation``, until the next call in this thread.
        surrogate: (x, gradient of its signs, state) → gradient of x: what ``binarize_activation`` does
            backward, for layers that compute the signs anew there.
        encode: (x, state) → codes, uint8 of the shape of x: all that the two below want to know of x.
        coded_sign: codes → the signs of x, in float32.
        coded_surrogate: (codes, gradient of the signs, state) → gradient of x, in float32 at least: what
            ``surrogate`` makes, but for the rounding of the codes.
        schedule: (fraction, t_min, t_max) → the two floats of the state after that fraction of the training.
            The values of the forward pass must not depend on the state.
        t_min: default of the schedule's lower bound.
        t_max: default of the schedule's upper bound.
        min_fan_in: fewest weights of one output channel for which the method is defined and can learn.
        paper: the source.
    """

    name: str
    binarize_weight: Callable[[Tensor, Tensor], Tensor]
    binarize_activation: Callable[[Tensor, Tensor], Tensor]
    signs_for_now: Callable[[Tensor, Tensor], Tensor]
    surrogate: Callable[[Tensor, Tensor, Tensor], Tensor]
    encode: Callable[[Tensor, Tensor], Tensor]
    coded_sign: Callable[[Tensor], Tensor]
    coded_surrogate: Callable[[Tensor, Tensor, Tensor], Tensor]
    schedule: Callable[[float, float, float], tuple[float, float]]
    t_min: float
    t_max: float
    min_fan_in: int
    paper: str


METHODS: dict[str, Method] = {
    "irnet": Method(
        name="irnet",
        binarize_weight=libra_pb,
        binarize_activation=ede_sign,
        signs_for_now=lambda x, state: signs_for_now(x),
        surrogate=ede_gradient,
        encode=ede_encode,
        coded_sign=coded_sign,
        coded_surrogate=ede_coded_gradient,
        schedule=ede_schedule,
        t_min=0.1,
        t_max=10.0,
        # n = 1 has no unbiased std; at n = 2 ŵ is ±1/√2 whatever the weights are, so its gradient is zero.
        min_fan_in=3,
        paper="Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks, "
        "CVPR 2020, arXiv 1909.10788",
    ),
}


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if name not in METHODS:
        raise UnknownNameError(
            f"method {name!r}",
            expected="one of " + ", ".join(map(repr, METHODS)),
            mend=nearest(name, METHODS),
        )
    return METHODS[name]
