"""What a packed network is timed against: a literal table of other ways to run the same model.

``torch``, ``compile``, ``onnxruntime``, ``onnxruntime-int8``, ``openvino-fp32`` and ``openvino-int8`` run the
full-precision model, ``openvino`` the binary one. int8 models are quantised on random images: their speed is
that of int8, their accuracy nobody's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.errors import ArgumentError, ModelError, UnknownNameError, nearest
from irnet_convert.extras import needs, openvino_core
from irnet_convert.packed.bench import Contestant
from irnet_convert.packed.model import PackedModel


def fill_statistics(model: nn.Module) -> None:
    """Random statistics and scales of BatchNorm, shifts and thresholds for a fresh binarized model, in place.

    Its own fold to nothing: packed, it would be faster than any trained network.
    """
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith((".shift_in", ".shift_out", ".threshold")):
            nn.init.normal_(parameter, std=0.1)


@dataclass(frozen=True, kw_only=True)
class Match:
    """The network and how it is run.

    Attributes:
        packed: the packed network.
        dense: the full-precision model, in eval mode, or None where nothing is known of it.
        images: float32, (N, C, H, W).
        threads: of every contestant.
        folder: for files in between.
    """

    packed: PackedModel
    dense: nn.Module | None
    images: Tensor
    threads: int
    folder: Path

    def full_precision(self, name: str) -> nn.Module:
        """The full-precision model, for the contestant ``name``.

        Raises:
            ArgumentError: it is not known.
        """
        if self.dense is None:
            architecture = self.packed.source.get("architecture")  # without what it was built with
            known = isinstance(architecture, str) and architecture.isidentifier()
            named = f", timm/{architecture}" if known else ""
            raise ArgumentError(
                f"--against {name} for a packed file that does not say how its model was built",
                expected="a model by name, as in timm/resnet18, or a file packed from a run of one",
                mend=f"bench the model by its name{named}, or the file against openvino or nothing: "
                "--against ''",
            )
        return self.dense


def contestants(match: Match, names: list[str], progress: Callable[[str], None]) -> list[Contestant]:
    """The packed network, then the others by name.

    Args:
        match: what is run.
        names: of :data:`ENGINES`.
        progress: is told what happens.

    Raises:
        UnknownNameError: a name that is not in the table.
        MissingExtraError: an engine is not installed.
        ArgumentError: a name that needs the full-precision model where there is none.
        PackError: the network cannot be exported to an engine.
    """
    for name in names:
        if name not in ENGINES:
            raise UnknownNameError(
                f"--against {name}",
                expected="names out of " + ", ".join(ENGINES),
                mend=nearest(name, ENGINES),
            )
    found = [Contestant(name="packed", what="this network", run=_called(match.packed, match.images))]
    for name in names:
        progress(f"preparing {name}")
        what, make = ENGINES[name]
        found.append(Contestant(name=name, what=what, run=make(match)))
    return found


def _called(model: Callable[[Tensor], Any], images: Tensor) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return model(images)

    return run


def _torch(match: Match) -> Callable[[], Any]:
    return _called(match.full_precision("torch"), match.images)


def _compile(match: Match) -> Callable[[], Any]:
    from torch._inductor import config

    model = match.full_precision("compile")
    with _quiet(), config.patch(freezing=True), torch.no_grad():
        compiled = torch.compile(model)
        compiled(match.images)

    def run() -> Any:
        # Freezing is asked for at each call, for it decides which compiled graph is taken.
        with config.patch(freezing=True), torch.no_grad():
            return compiled(match.images)

    return run


def _onnx_file(match: Match, name: str) -> Path:
    """The full-precision model as ONNX, made once."""
    path = match.folder / "full_precision.onnx"
    if not path.exists():
        with needs("onnx"):
            import onnxscript  # noqa: F401  torch's exporter needs it
        model = match.full_precision(name)
        try:
            with _quiet():
                torch.onnx.export(
                    model, (match.images,), str(path), dynamo=True, external_data=False, verbose=False
                )
        except Exception as error:  # the exporter may raise anything at all for a model that it cannot trace
            raise ModelError(
                f"torch.onnx.export of the full-precision model: {str(error).splitlines()[0][:200]}",
                expected="a model that PyTorch exports to ONNX", mend=f"leave {name} out of --against",
            ) from error  # fmt: skip
    return path


def _int8_file(match: Match, name: str) -> Path:
    """The full-precision model with int8 weights and activations, per channel, made once."""
    path = match.folder / "int8.onnx"
    if not path.exists():
        source = _onnx_file(match, name)
        with needs("onnx"):
            from onnxruntime import quantization as q
        images = match.images.numpy()

        class Images(q.CalibrationDataReader):
            """The benchmark's own random images, twice."""

            def __init__(self) -> None:
                self.left = 2

            def get_next(self) -> Any:
                self.left -= 1
                import onnx

                name = onnx.load(source).graph.input[0].name
                return {name: images} if self.left >= 0 else None

        with _quiet():
            q.quantize_static(
                source, path, Images(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
            )  # fmt: skip
    return path


def _onnxruntime(file: Callable[[Match, str], Path], name: str) -> Callable[[Match], Callable[[], Any]]:
    def make(match: Match) -> Callable[[], Any]:
        with needs("onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = match.threads, 3
        session = onnxruntime.InferenceSession(
            str(file(match, name)), options, providers=["CPUExecutionProvider"]
        )
        given = {session.get_inputs()[0].name: match.images.numpy()}
        return lambda: session.run(None, given)

    return make


def _openvino(file: Callable[[Match, str], Path], name: str) -> Callable[[Match], Callable[[], Any]]:
    def make(match: Match) -> Callable[[], Any]:
        config = {
            "INFERENCE_NUM_THREADS": match.threads, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1,
        }  # fmt: skip
        compiled = openvino_core().compile_model(str(file(match, name)), "CPU", config)
        request, images = compiled.create_infer_request(), match.images.numpy()
        return lambda: request.infer([images], share_inputs=True, share_outputs=True)

    return make


def _binary_ir(match: Match, name: str) -> Path:
    from irnet_convert.packed.openvino import export_openvino

    path = match.folder / "binary.xml"
    size = tuple(match.images.shape)
    export_openvino(match.packed, path, input_size=size[1:], batch=size[0])
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what other people's exporters warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


#: Name → what it is, and what makes a call of it.
ENGINES: dict[str, tuple[str, Callable[[Match], Callable[[], Any]]]] = {
    "torch": ("PyTorch eager, float32", _torch),
    "compile": ("torch.compile, frozen, float32", _compile),
    "onnxruntime": ("ONNX Runtime, float32", _onnxruntime(_onnx_file, "onnxruntime")),
    "onnxruntime-int8": ("ONNX Runtime, int8", _onnxruntime(_int8_file, "onnxruntime-int8")),
    "openvino": ("OpenVINO, BinaryConvolution and float32", _openvino(_binary_ir, "openvino")),
    "openvino-fp32": ("OpenVINO, float32", _openvino(_onnx_file, "openvino-fp32")),
    "openvino-int8": ("OpenVINO, int8", _openvino(_int8_file, "openvino-int8")),
}
