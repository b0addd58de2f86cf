"""First layers on integers: weights and images quantised to 8 or 16 bits, their products exact.

A first layer is real and costs as much as all binary layers together. With ``stem_bits`` b its weights are
quantised per output channel, w ≈ q·r with r = max|w| / (2^(b−1) − 1), and each image at the call by its own
maximum (``Conv.input_bits``); the sum of products is an exact integer, and r is multiplied into the
affine that follows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from irnet_convert.errors import ArgumentError, PackError
from irnet_convert.packed.blob import constant, make_blob, stored
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.network import InputArg, RegionNode
from irnet_convert.packed.steps import Affine, ConstSpec, Conv, DType, Program, Step, constants_of

#: Bits → how weights are stored.
STEM_BITS: dict[int, DType] = {8: "i8", 16: "i16"}


def with_integer_stem(packed: PackedModel, bits: int) -> PackedModel:
    """The network with its first layers on integers.

    Args:
        packed: left as it is.
        bits: 8 or 16, of weights and images.

    Returns:
        A new network; its logits differ by what quantisation rounds away.

    Raises:
        ArgumentError: another number of bits.
        PackError: no first layer is a real convolution in a fused region.
    """
    if bits not in STEM_BITS:
        raise ArgumentError(f"stem_bits={bits!r}", expected="8 or 16", mend="leave it out for float32")
    programs, blobs, changed = list(packed.programs), list(packed.blobs), 0
    for number, places in _image_inputs(packed).items():
        program, blob = programs[number], blobs[number].cpu()
        for index, step in enumerate(program.steps):
            if isinstance(step, Conv) and step.input in places and step.input_bits is None:
                program, blob = _quantised(program, blob, index, bits)
                changed += 1
        programs[number], blobs[number] = program, blob
    if not changed:
        raise PackError(
            f"stem_bits={bits} for a network whose first layers are no real convolutions in a fused region",
            expected="a stem of 2D convolutions", mend="leave stem_bits out",
        )  # fmt: skip
    return PackedModel(packed.network, programs, blobs, packed.constants, packed.source)


def _image_inputs(packed: PackedModel) -> dict[int, set[int]]:
    """Program → those of its values that are inputs of the network."""
    return {
        node.program: {i for i, arg in enumerate(node.args) if isinstance(arg, InputArg)}
        for node in packed.network.nodes
        if isinstance(node, RegionNode)
    }


def _quantised(program: Program, blob: Tensor, index: int, bits: int) -> tuple[Program, Tensor]:
    """The program with step ``index`` on integers, and its constants."""
    step = program.steps[index]
    assert isinstance(step, Conv)
    spec = program.constants[step.weight]
    if spec.dtype not in ("f32", "f16", "bf16"):
        return program, blob
    levels, rate = quantise(constant(program, blob, step.weight), bits)
    first = step.post[0] if step.post and isinstance(step.post[0], Affine) else None
    # Merging two affines rounds once more than running both, within float32's last bit.
    scale = rate if first is None else constant(program, blob, first.scale) * rate
    shift = torch.zeros_like(rate) if first is None else constant(program, blob, first.shift)
    tensors = {c.name: stored(program, blob, i) for i, c in enumerate(program.constants)}
    names = [f"{spec.name}.{what}" for what in ("levels", "scale", "shift")]
    tensors.update(zip(names, (levels, scale, shift), strict=True))
    count = len(program.constants)
    added = (
        ConstSpec(name=names[0], dtype=STEM_BITS[bits], shape=spec.shape),
        *(ConstSpec(name=name, dtype="f32", shape=(len(rate),)) for name in names[1:]),
    )
    post = (Affine(scale=count + 1, shift=count + 2), *step.post[first is not None :])
    steps = list(program.steps)
    steps[index] = replace(step, weight=count, input_bits=bits, post=post)
    return _without_unused(
        replace(program, constants=(*program.constants, *added), steps=tuple(steps)), tensors
    )


def quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers and a factor per output channel.

    Args:
        weight: (O, I, kH, kW), float32.
        bits: 8 or 16.

    Returns:
        Integers of the shape of ``weight``, int8 or int16, and factors (O,), float32; weight ≈ their product.
        A row's absolute sum stays below 2^31 / 2^(bits−1), so that no sum of products leaves int32.
    """
    rows = weight.double().flatten(1)
    top = (1 << (bits - 1)) - 1
    # The sum of |q| is at most Σ|w| / r + K / 2, for rounding moves each by at most a half.
    room = ((1 << 31) - 1) // top - rows.shape[1]
    rate = torch.maximum(rows.abs().amax(1) / top, rows.abs().sum(1) / room).float()
    safe = torch.where(rate > 0, rate, 1.0).double()
    levels = (rows / safe[:, None]).round().clamp(-top, top)
    return levels.reshape(weight.shape).to(torch.int8 if bits == 8 else torch.int16), rate


def _without_unused(program: Program, tensors: dict[str, Tensor]) -> tuple[Program, Tensor]:
    """The program with constants that a step reads, renumbered in their order, and its blob."""
    used = sorted({c for step in program.steps for c in constants_of(step)})
    place = {old: new for new, old in enumerate(used)}
    steps = tuple(_renumbered(step, place) for step in program.steps)
    program = replace(program, constants=tuple(program.constants[i] for i in used), steps=steps)
    return program, make_blob(program, tensors)


def _renumbered(step: Step, place: dict[int, int]) -> Step:
    post = tuple(
        replace(
            p, **{name: place[getattr(p, name)] for name in ("scale", "shift", "slope") if hasattr(p, name)}
        )
        for p in step.post
    )
    weight = {"weight": place[step.weight]} if hasattr(step, "weight") else {}  # type: ignore[union-attr]
    return replace(step, post=post, **weight)
