"""ONNX: a packed network of standard operators, with its weights packed in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from irnet_convert.errors import ArgumentError
from irnet_convert.extras import needs
from irnet_convert.packed.aside import written_aside
from irnet_convert.packed.whole import Whole, whole_of

if TYPE_CHECKING:
    import onnx

#: Of the operator set: the first with Gelu, and one that runtimes of 2024 know.
OPSET, IR_VERSION = 20, 9


def export_onnx(model: nn.Module, path: str | Path, *, input_size: Sequence[int] | None = None) -> None:
    """Write a network as one ``.onnx`` file of standard operators, for ONNX Runtime and others.

    ±1 weights stay one bit each in the file and are unpacked by BitShift and BitwiseAnd when a runtime loads
    it. ONNX has no binary layers, so that these run as real convolutions on ±1, no faster than the
    full-precision model. Their sums are the same integers; the sign of 0 is +1 and that of NaN −1; padded
    zeros contribute exactly 0. What follows is float32 in the runtime's order: logits agree to rounding.

    Args:
        model: a packed network, or a binarized model, which is packed.
        path: ends in ``.onnx``.
        input_size: (C, H, W); the recorded size if None. The batch stays free.

    Raises:
        ArgumentError: another file name, or a size that the network does not take.
        MissingExtraError: onnx is not installed.
        PackError: the model cannot be packed, or not as a whole; the message names what stays in PyTorch.
        PackedFileError: the place cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ArgumentError(
            f"export_onnx to {path}", expected="a name that ends in .onnx", mend=f"write {path.stem}.onnx"
        )
    with needs("onnx"):
        import onnx
    network = onnx_model(whole_of(model, input_size, batch=1))
    with written_aside(path) as aside:
        onnx.save_model(network, aside)


def onnx_model(whole: Whole) -> onnx.ModelProto:
    """The ModelProto of a network, checked."""
    import onnx
    from onnx import TensorProto, helper

    from irnet_convert.packed.onnx_steps import Operators

    made = Operators(whole.program, whole.blob, whole.inputs, whole.shapes)

    def declared(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape[1:]])

    graph = helper.make_graph(
        made.nodes, whole.name,
        [declared(n, s) for n, s in zip(whole.inputs, whole.shapes, strict=True)],
        [declared(n, s) for n, s in zip(made.outputs, whole.outputs, strict=True)],
        made.constants,
    )  # fmt: skip
    network = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="irnet-convert",
    )  # fmt: skip
    onnx.checker.check_model(network)
    return network
