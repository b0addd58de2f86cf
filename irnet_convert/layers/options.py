"""The options that make a layer binary, validated before anything is built or changed."""

from __future__ import annotations

from dataclasses import dataclass

from irnet_convert.binary import Method, method
from irnet_convert.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a binary layer has beside its dense layer's arguments; see BinaryConv2d for their meaning."""

    method: str
    act_bits: int
    scale: bool
    t_min: float
    t_max: float


def check_options(
    fan_in: int,
    name: str,
    act_bits: int,
    scale: bool,
    t_min: float | None,
    t_max: float | None,
    *,
    kind: str,
    takes_scale: bool,
) -> Options:
    """The options of a binary layer, validated before anything is built."""
    how: Method = method(name)
    if act_bits not in (1, 32):
        raise ArgumentError(
            f"act_bits={act_bits!r}",
            expected="1 (binary activations) or 32 (activations as they are)",
            mend="choose one of the two",
        )
    if fan_in < how.min_fan_in:
        raise ArgumentError(
            f"a layer with {fan_in} weight(s) per output channel",
            expected=f"at least {how.min_fan_in}: with fewer, {name!r} leaves nothing to learn",
            mend="keep this layer in full precision",
        )
    if scale and not takes_scale:
        raise ArgumentError(
            f"scale=True for {kind}",
            expected="scale=False: it has a learnable gain per output channel already",
            mend="leave scale out for this family (its takes_scale is False)",
        )
    t_min = how.t_min if t_min is None else float(t_min)
    t_max = how.t_max if t_max is None else float(t_max)
    how.schedule(0.0, t_min, t_max)
    return Options(method=name, act_bits=act_bits, scale=bool(scale), t_min=t_min, t_max=t_max)
