"""What other engines' exports start from: a network that is one region from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from irnet_convert.errors import ArgumentError, PackError
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.network import InputArg, RegionNode, whole_region
from irnet_convert.packed.shapes import Shape, infer_shapes
from irnet_convert.packed.steps import Program


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A network of one program.

    Attributes:
        program: it.
        blob: its constants, on the CPU.
        name: of the source model, for the exported file.
        inputs: names of the model's arguments, in the program's order.
        shapes: of the inputs.
        outputs: shapes of the outputs.
    """

    program: Program
    blob: Tensor
    name: str
    inputs: list[str]
    shapes: list[Shape]
    outputs: list[Shape]


def whole_of(model: nn.Module, input_size: Sequence[int] | None, batch: int) -> Whole:
    """The single program of a network, and the shapes to export it for.

    Args:
        model: a packed network, or a binarized model, which is packed.
        input_size: sizes of one input without the batch; the recorded ones if None.
        batch: images in a batch.

    Raises:
        PackError: parts of the network stay in PyTorch, or it has several regions; the message names them.
        ArgumentError: sizes that the network does not take.
    """
    if input_size is not None and not isinstance(input_size, Sequence):
        raise ArgumentError(
            f"input_size={input_size!r}",
            expected="sizes of one input without the batch, as (3, 224, 224)",
            mend="pass input_size=(C, H, W)",
        )
    if not isinstance(model, PackedModel):
        from irnet_convert.packed.packing import pack

        model = pack(model)
    network = model.network
    node = _only_region(model)
    order = [arg.index for arg in node.args if isinstance(arg, InputArg)]
    specs = [network.inputs[i] for i in order]
    shapes = [_shape(spec.name, spec.shape, model, input_size, batch) for spec in specs]
    program = model.programs[0]
    values = infer_shapes(program, shapes)
    return Whole(
        program=program, blob=model.blobs[0].cpu(), name=title_of(model),
        inputs=[spec.name for spec in specs], shapes=shapes, outputs=[values[i] for i in program.outputs],
    )  # fmt: skip


def _only_region(model: PackedModel) -> RegionNode:
    network = model.network
    node = whole_region(network, len(model.programs[0].outputs)) if model.programs else None
    if node is None:
        kept = ", ".join(f"{n} {op}" for op, n in model.report().operators.items())
        raise PackError(
            f"an export of {title_of(model)}: {network.programs} fused regions, "
            f"and in PyTorch {kept or 'only what joins them'}",
            expected="a network that is fused as a whole, as ResNets and VGGs are",
            mend="run it packed in PyTorch; or export to_dense(model) by the engine's own converter, where "
            "binary layers run as real ones",
        )
    return node


def _shape(
    name: str, known: tuple[int | None, ...], model: PackedModel, given: Sequence[int] | None, batch: int
) -> Shape:
    """(N, C, H, W) of one input: what the network fixes, then what was given, then what the source says."""
    recorded = model.source.get("input_size")
    if given is None and recorded and len(recorded) == len(known) - 1:
        given = recorded
    sizes: tuple[int | None, ...] = (batch, *(known[1:] if given is None else given))
    fits = len(sizes) == len(known) and all(
        size is not None and size > 0 and want in (None, size)
        for size, want in zip(sizes, known, strict=True)
    )
    if not fits:
        shown = "×".join("any" if s is None else str(s) for s in known)
        raise ArgumentError(
            f"the input {name!r} of {'×'.join(map(str, sizes))}", expected=shown,
            mend="pass input_size=(C, H, W) that the network takes",
        )  # fmt: skip
    return tuple(int(size) for size in sizes if size is not None)


def title_of(model: PackedModel) -> str:
    """What to call a packed network."""
    source = model.source
    return str(source.get("name") or source.get("architecture") or source.get("model") or "a packed network")
