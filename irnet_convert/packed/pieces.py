"""What one node of an exported graph is in terms of steps, before steps are put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from irnet_convert.packed.steps import Layout


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A step's weight.

    Attributes:
        name: the parameter's path.
        tensor: float32, or packed bits (uint8).
        shape: the logical shape.
        bits: whether it is bits.
    """

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    bits: bool


@dataclass(frozen=True, kw_only=True)
class AffinePiece:
    """y·scale + shift per channel, in float64 until the program is written."""

    scale: Tensor
    shift: Tensor
    name: str


@dataclass(frozen=True, kw_only=True)
class AddPiece:
    """y + what another node returns."""

    other: fx.Node


@dataclass(frozen=True, kw_only=True)
class PreluPiece:
    """PReLU; the slope is float32, (C,) or (1,)."""

    slope: Tensor
    name: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One node as a step, or as something that follows a step.

    Attributes:
        inputs: what the step reads; the rest of what the node reads is in ``post``.
        reads: the layout that the inputs must have.
        layout: of the result.
        channels: of the result.
        rank: of the result.
        step: the class of the step; None for nothing but ``post``.
        fields: of the step: all but inputs, weight and post.
        weight: of the step.
        post: AffinePiece, AddPiece, PreluPiece, or a Clamp or Activation as steps have them.
    """

    inputs: tuple[fx.Node, ...]
    reads: Layout
    layout: Layout
    channels: int
    rank: int
    step: type | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    weight: Weight | None = None
    post: tuple[Any, ...] = ()

    def sources(self) -> tuple[fx.Node, ...]:
        """All nodes that it reads."""
        return self.inputs + tuple(p.other for p in self.post if isinstance(p, AddPiece))
