"""One region as a program: pieces become steps, and what follows a step becomes part of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from irnet_convert.packed.bits import row_bytes
from irnet_convert.packed.pieces import AddPiece, AffinePiece, Piece, PreluPiece, Weight
from irnet_convert.packed.regions import Regions
from irnet_convert.packed.steps import (
    Add,
    Affine,
    Concat,
    ConstSpec,
    DType,
    Layout,
    Pointwise,
    Prelu,
    Program,
    Subsample,
    ValueSpec,
)

#: How real weights may be stored.
REAL_DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
}


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """A program, its constants as stored, and the nodes that go in and come out, in order."""

    program: Program
    tensors: dict[str, Tensor]
    inputs: list[fx.Node]
    outputs: list[fx.Node]


@dataclass
class _Draft:
    """A step that others may still be appended to. ``reads`` are nodes."""

    piece: Piece
    reads: list[fx.Node]
    step: type
    fields: dict[str, Any]
    post: list[Any] = field(default_factory=list)


def emit(regions: Regions, level: int, real_dtype: torch.dtype) -> Emitted:
    """The program of the region on a level.

    Args:
        regions: the network's.
        level: one of ``regions.levels()``.
        real_dtype: of real weights in storage; a weight that would overflow in it stays float32.
    """
    drafting = _Drafting(regions, level)
    members = set(regions.members(level))
    outside = {s for n in regions.order if n not in members or regions.level[n] != level
               for s in regions.sources(n)}  # fmt: skip
    # A piece of this region that another reads in another layout is read from outside too.
    outside |= {
        s for n in members for s in regions.sources(n) if s in members and not regions.stays_inside(s, n)
    }
    outputs = [n for n in drafting.order if n in outside or n in regions.outputs]
    return _Writing(drafting, real_dtype).emitted(outputs)


class _Drafting:
    """Pieces in an order in which as much as possible merges, as drafts of steps."""

    def __init__(self, regions: Regions, level: int) -> None:
        self.regions, self.level = regions, level
        self.members = set(regions.members(level))
        self.order: list[fx.Node] = []
        self.drafts: list[_Draft] = []
        self.draft_of: dict[fx.Node, int] = {}
        self.inputs: dict[tuple[fx.Node, Layout], int] = {}
        for node in self._ordered():
            self.order.append(node)
            self._place(node)

    def _ordered(self) -> list[fx.Node]:
        """Depth first, the operand of an addition that comes from a binary layer last.

        An addition belongs to the later of the steps that it adds; a binary layer's is the one to gain.
        """
        done: dict[fx.Node, None] = {}
        read = {s for n in self.members for s in self.regions.sources(n)}
        ends = [n for n in self.regions.members(self.level) if n not in read]
        stack = [(n, False) for n in reversed(ends)]
        while stack:
            node, ready = stack.pop()
            if node in done:
                continue
            if ready:
                done[node] = None
                continue
            stack.append((node, True))
            inside = [s for s in self.regions.sources(node) if s in self.members]
            inside.sort(key=self._is_binary)
            stack += [(s, False) for s in reversed(inside) if s not in done]
        return list(done)

    def _is_binary(self, node: fx.Node) -> bool:
        """Whether the step that a chain of pointwise pieces belongs to has packed weights."""
        while node in self.members:
            piece = self.regions.pieces[node]
            if piece.step is not None or any(isinstance(p, AddPiece) for p in piece.post):
                return piece.weight is not None and piece.weight.bits
            node = self.regions.flow.source(piece.inputs[0])
        return False

    def _place(self, node: fx.Node) -> None:
        piece = self.regions.pieces[node]
        reads = [self.regions.flow.source(n) for n in piece.inputs]
        for source in reads:
            self._note_input(source, piece.reads)
        for post in piece.post:
            if isinstance(post, AddPiece):
                self._note_input(self.regions.flow.source(post.other), piece.layout)
        if piece.step is None and self._append(node, piece, reads[0]):
            return
        if piece.step is Subsample and self._subsample_twice(node, piece, reads[0]):
            return
        self.draft_of[node] = len(self.drafts)
        step = piece.step or Pointwise
        self.drafts.append(_Draft(piece, reads, step, dict(piece.fields), self._posts(piece.post)))

    def _note_input(self, node: fx.Node, layout: Layout) -> None:
        if not self._is_inside(node, layout):
            self.inputs.setdefault((node, layout), len(self.inputs))

    def _is_inside(self, node: fx.Node, layout: Layout) -> bool:
        return node in self.members and self.regions.pieces[node].layout == layout

    def _posts(self, posts: tuple[Any, ...]) -> list[Any]:
        source = self.regions.flow.source
        return [AddPiece(other=source(p.other)) if isinstance(p, AddPiece) else p for p in posts]

    def _append(self, node: fx.Node, piece: Piece, base: fx.Node) -> bool:
        """Let the pointwise piece follow a step whose value nothing else reads."""
        posts = self._posts(piece.post)
        choices = [(base, posts)]
        if len(posts) == 1 and isinstance(posts[0], AddPiece):
            choices.append((posts[0].other, [AddPiece(other=base)]))
        # Addition commutes: the later step takes it.
        choices.sort(key=lambda c: self.draft_of.get(c[0], -1), reverse=True)
        for target, added in choices:
            if not self._is_inside(target, piece.layout) or self.regions.uses[target] != 1:
                continue
            number = self.draft_of[target]
            if all(self._comes_before(p, number) for p in added):
                self.drafts[number].post += added
                self.draft_of[node] = number
                return True
        return False

    def _comes_before(self, post: Any, number: int) -> bool:
        if not isinstance(post, AddPiece) or post.other not in self.members:
            return True
        return self.draft_of[post.other] < number

    def _subsample_twice(self, node: fx.Node, piece: Piece, base: fx.Node) -> bool:
        """x[:, :, ::a, ::b] and then [::c, ::d] or zero channels: one step."""
        if not self._is_inside(base, "map") or self.regions.uses[base] != 1:
            return False
        draft = self.drafts[self.draft_of[base]]
        if draft.step is not Subsample or draft.post:
            return False
        first, then = draft.fields, piece.fields
        stride = tuple(a * b for a, b in zip(first["stride"], then["stride"], strict=True))
        if max(stride) > 1 << 10:
            return False
        draft.fields = {
            "stride": stride,
            "before": first.get("before", 0) + then.get("before", 0),
            "after": first.get("after", 0) + then.get("after", 0),
        }
        self.draft_of[node] = self.draft_of[base]
        return True


class _Writing:
    """Drafts as steps, with numbers for values and constants."""

    def __init__(self, drafting: _Drafting, real_dtype: torch.dtype) -> None:
        self.d, self.real_dtype = drafting, real_dtype
        self.constants: list[ConstSpec] = []
        self.tensors: dict[str, Tensor] = {}
        self.known: dict[tuple[str, int], int] = {}

    def emitted(self, outputs: list[fx.Node]) -> Emitted:
        """The program, which returns the values of these nodes."""
        flow = self.d.regions.flow
        specs = []
        for node, layout in self.d.inputs:
            shape = flow.shape(node)
            channels = shape[1 if layout == "map" else -1]
            specs.append(ValueSpec(layout=layout, channels=channels, rank=len(shape)))
        program = Program(
            inputs=tuple(specs),
            steps=tuple(self._step(draft) for draft in self.d.drafts),
            constants=tuple(self.constants),
            outputs=tuple(self._value(n, self.d.regions.pieces[n].layout) for n in outputs),
        )
        inputs = [node for node, _ in self.d.inputs]
        return Emitted(program=program, tensors=self.tensors, inputs=inputs, outputs=outputs)

    def _value(self, node: fx.Node, layout: Layout) -> int:
        if (node, layout) in self.d.inputs:
            return self.d.inputs[node, layout]
        return len(self.d.inputs) + self.d.draft_of[node]

    def _step(self, draft: _Draft) -> Any:
        piece = draft.piece
        reads = [self._value(n, piece.reads) for n in draft.reads]
        fields = dict(draft.fields)
        if piece.weight is not None:
            fields["weight"] = self._weight(piece.weight)
        fields["inputs" if draft.step is Concat else "input"] = (
            tuple(reads) if draft.step is Concat else reads[0]
        )
        posts = _merged(draft.post)
        return draft.step(**fields, post=tuple(self._post(p, piece.layout) for p in posts))

    def _post(self, post: Any, layout: Layout) -> Any:
        if isinstance(post, AffinePiece):
            return Affine(
                scale=self._vector(post.name + ".scale", post.scale),
                shift=self._vector(post.name + ".shift", post.shift),
            )
        if isinstance(post, AddPiece):
            return Add(value=self._value(post.other, layout))
        if isinstance(post, PreluPiece):
            return Prelu(slope=self._vector(post.name + ".slope", post.slope))
        return post

    def _vector(self, name: str, value: Tensor) -> int:
        return self._constant(name, "f32", value.float().contiguous(), tuple(value.shape))

    def _weight(self, weight: Weight) -> int:
        key = (weight.name, weight.tensor.data_ptr())
        if key not in self.known:
            tensor, dtype = weight.tensor, "bits"
            if weight.bits:
                assert tensor.shape[1] == row_bytes(weight.shape)
            else:
                stored = tensor.to(self.real_dtype)
                safe = bool(torch.isfinite(stored).all()) or not bool(torch.isfinite(tensor).all())
                tensor = stored if safe else tensor
                dtype = REAL_DTYPES[tensor.dtype]
            self.known[key] = self._constant(weight.name, dtype, tensor.contiguous(), weight.shape)
        return self.known[key]

    def _constant(self, name: str, dtype: Any, tensor: Tensor, shape: tuple[int, ...]) -> int:
        name = unique(name, self.tensors)
        self.constants.append(ConstSpec(name=name, dtype=dtype, shape=shape))
        self.tensors[name] = tensor
        return len(self.constants) - 1


def unique(name: str, taken: Any) -> str:
    """The name, or with a number behind it where it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


def _merged(posts: list[Any]) -> list[Any]:
    """Affines that follow each other are one: (y·a + b)·c + d = y·(a·c) + (b·c + d), in float64.

    One that changes nothing is dropped.
    """
    found: list[Any] = []
    for post in posts:
        last = found[-1] if found else None
        if isinstance(post, AffinePiece) and isinstance(last, AffinePiece):
            found[-1] = AffinePiece(
                scale=last.scale * post.scale, shift=last.shift * post.scale + post.shift, name=post.name
            )
        else:
            found.append(post)
    return [
        p
        for p in found
        if not (isinstance(p, AffinePiece) and bool((p.scale == 1).all() and (p.shift == 0).all()))
    ]
