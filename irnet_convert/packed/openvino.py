"""OpenVINO: a packed network as IR with BinaryConvolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from irnet_convert.errors import ArgumentError
from irnet_convert.extras import needs
from irnet_convert.packed.aside import written_aside
from irnet_convert.packed.whole import whole_of


def export_openvino(
    model: nn.Module, path: str | Path, *, input_size: Sequence[int] | None = None, batch: int = 1
) -> None:
    """Write a network for OpenVINO: ``path`` (.xml) and its weights beside it (.bin).

    Binary layers become opset1 BinaryConvolution with one bit a weight, for which OpenVINO's CPU plugin has
    native kernels; real layers stay float32. Where BinaryConvolution does not do what a layer needs (groups,
    channels that are no multiple of 8, wide padding; W1A32 layers), a real convolution with ±1 weights takes
    its place. Sums of binary layers are the same integers, the sign of 0 is +1 (that of NaN depends on the
    processor), and padded zeros contribute exactly 0. What follows is float32 in OpenVINO's order, if it is
    compiled with the INFERENCE_PRECISION_HINT f32: logits agree to rounding.

    Args:
        model: a packed network, or a binarized model, which is packed.
        path: ends in ``.xml``.
        input_size: (C, H, W); the recorded size if None. BinaryConvolution takes no dynamic shapes.
        batch: images in a batch, fixed as well.

    Raises:
        ArgumentError: another file name, or a size that the network does not take.
        MissingExtraError: OpenVINO is not installed.
        PackError: the model cannot be packed, or not as a whole; the message names what stays in PyTorch.
        PackedFileError: the place cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise ArgumentError(
            f"export_openvino to {path}", expected="a name that ends in .xml", mend=f"write {path.stem}.xml"
        )
    with needs("openvino"):
        import openvino as ov
        from openvino import opset14

        from irnet_convert.packed.openvino_steps import Operators
    whole = whole_of(model, input_size, batch)
    inputs = [opset14.parameter(list(shape), ov.Type.f32, name=name)
              for name, shape in zip(whole.inputs, whole.shapes, strict=True)]  # fmt: skip
    made = Operators(whole.program, whole.blob, inputs, whole.shapes)
    model_type: Any = ov.Model  # OpenVINO's annotations of its constructor contradict each other
    network = model_type([opset14.result(node) for node in made.outputs], inputs, whole.name)
    for node in network.inputs:
        node.get_tensor().set_names({node.get_node().get_friendly_name()})
    with written_aside(path) as aside:
        ov.save_model(network, aside, compress_to_fp16=False)
