"""PackedModel: a packed network as a module for inference."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from irnet_convert.errors import ArgumentError, PackError, ProgramError
from irnet_convert.packed.again import Again
from irnet_convert.packed.blob import check_blob
from irnet_convert.packed.build import graph_module
from irnet_convert.packed.network import InputArg, InputSpec, Network, NodeArg, check_network, whole_region
from irnet_convert.packed.ops import DTYPES
from irnet_convert.packed.report import Report, report_of
from irnet_convert.packed.steps import Program


class PackedModel(nn.Module):
    """A packed network; made by :func:`irnet_convert.pack` or :func:`irnet_convert.load_packed`.

    It takes and returns what the model that was packed took and returned, in evaluation mode. Inputs of
    float16 or bfloat16 are computed in float32, and the results are of the input's dtype. It has neither
    parameters nor gradients.

    Args:
        network: the graph.
        programs: those that the graph calls.
        blobs: the constants of each program (``blob.py``).
        constants: those of the PyTorch parts, by name, in storage.
        source: what is known of the model that was packed: plain data, for files and reports.

    Raises:
        ProgramError: parts that do not fit each other.
    """

    def __init__(
        self,
        network: Network,
        programs: Sequence[Program],
        blobs: Sequence[Tensor],
        constants: Mapping[str, Tensor],
        source: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_network(network)
        if not len(programs) == len(blobs) == network.programs:
            raise _misfit(f"{len(programs)} programs and {len(blobs)} blobs", f"{network.programs} of each")
        for program, blob in zip(programs, blobs, strict=True):
            check_blob(program, blob)
        self.network, self.programs = network, tuple(programs)
        self.source: dict[str, Any] = dict(source or {})
        self.body = graph_module(network, self.programs, blobs, _in_memory(network, constants))
        self._text = _only_text(network, self.programs)
        self._again = Again()
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            args: the model's inputs, by position.
            kwargs: or by name.

        Raises:
            ArgumentError: inputs of another number, rank, size, dtype or device than the network takes, or
                inputs that ask for a gradient.
        """
        body: Any = self._modules["body"]
        # Not in code that is compiled: it would be compiled anew for each change of what is known.
        eager = not torch.compiler.is_compiling()
        named = kwargs or len(args) != len(self.network.inputs)
        inputs = self._bound(args, kwargs) if named else args
        if eager and len(inputs) == 1:
            found = self._again.run(inputs[0], body._buffers["blob0"])
            if found is not None:
                return found
        dtype = self._check(inputs)
        if dtype == torch.float32:
            found = body.forward(*inputs)
            if eager and self._text and len(inputs) == 1:
                self._again.remember(self._text, body._buffers["blob0"], inputs[0], found)
            return found
        found = body(*[x.float() if x.is_floating_point() else x for x in inputs])
        return _cast(found, dtype)

    # -- what it is made of

    @property
    def blobs(self) -> list[Tensor]:
        """The constants of each program, on the module's device."""
        return [self.body.get_buffer(f"blob{i}") for i in range(len(self.programs))]

    @property
    def constants(self) -> dict[str, Tensor]:
        """The constants of the PyTorch parts by name, in the dtype of storage."""
        return {
            spec.name: self.body.get_buffer(f"constant{i}").to(getattr(torch, spec.dtype))
            for i, spec in enumerate(self.network.constants)
        }

    def report(self) -> Report:
        """What was fused, what stays in PyTorch, and which kernels run; printing it shows a table."""
        return report_of(self.network, self.programs, next(self.body.buffers()).device)

    def extra_repr(self) -> str:
        return self.report().summary()

    # -- what it is not

    def train(self, mode: bool = True) -> Self:
        """``train(False)`` changes nothing.

        Raises:
            PackError: ``mode`` is True.
        """
        if mode:
            raise PackError(
                "train() of a packed network",
                expected="evaluation mode: its weights are bits, and its normalisation is folded",
                mend="train the model that was packed, and pack it again",
            )
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves to a device; a change of dtype, as ``half()`` makes, is not for constants."""

        def only_moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        return super()._apply(only_moved, recurse)

    def __del__(self) -> None:
        # The engine keeps each program's plan, with its own copy of the weights, beside the blob.
        # Nothing of this module may be left when the interpreter ends.
        native = (getattr(sys, "modules", None) or {}).get("irnet_convert.packed.engine")
        body = self.__dict__.get("_modules", {}).get("body")
        if native is None or body is None:
            return
        for buffer in body.buffers():
            if type(buffer) is Tensor and buffer.dtype == torch.uint8 and buffer.device.type == "cpu":
                native.forget(buffer)

    # -- inputs

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        names = [spec.name for spec in self.network.inputs]
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(names) or given.keys() != set(names):
            raise ArgumentError(
                f"{len(args)} inputs by position and {sorted(kwargs)} by name",
                expected="the inputs " + ", ".join(names),
                mend="call the packed network with the arguments of the example that it was packed with",
            )
        return [given[name] for name in names]

    def _check(self, inputs: Sequence[Tensor]) -> torch.dtype:
        """Refuse what the network does not take; return the dtype of its floating inputs."""
        device, dtype = self.body.blob0.device, None
        for x, spec in zip(inputs, self.network.inputs, strict=True):
            if not isinstance(x, Tensor):
                raise _refused(spec, f"a {type(x).__name__}", "pass a tensor")
            floating = spec.dtype == "float32"
            if x.dtype not in DTYPES if floating else x.dtype != getattr(torch, spec.dtype):
                raise _refused(spec, f"of {x.dtype}", _mend_dtype(x.dtype, spec))
            if x.layout != torch.strided:
                raise _refused(spec, f"of layout {x.layout}", "x.to_dense()")
            if x.device != device:
                raise _refused(
                    spec, f"on {x.device}", f"x.to({str(device)!r}), or packed.to({str(x.device)!r})"
                )
            shape = x.shape
            if len(shape) != len(spec.shape) or any(
                want is not None and want != got for want, got in zip(spec.shape, shape, strict=True)
            ):
                raise _refused(spec, f"of shape {tuple(shape)}", _mend_shape(tuple(shape), spec))
            if x.requires_grad and torch.is_grad_enabled():
                raise _refused(spec, "that requires a gradient", "x.detach(), or torch.inference_mode()")
            if dtype is None and x.is_floating_point():
                dtype = x.dtype
        return dtype or torch.float32


def _mend_dtype(dtype: torch.dtype, spec: InputSpec) -> str:
    if spec.dtype != "float32":
        return f"x.to(torch.{spec.dtype})"
    if dtype == torch.uint8:
        return "convert it, for images: x.float() / 255, then normalise"
    return "x.float()"


def _mend_shape(shape: tuple[int, ...], spec: InputSpec) -> str:
    """What was probably meant."""
    want = spec.shape
    if len(shape) == len(want) - 1:
        return "one image needs a batch: x.unsqueeze(0)"
    if len(shape) != len(want):
        return f"pass {len(want)} dimensions"
    if len(shape) == 4 and want[1] not in (None, shape[1]):
        if shape[3] == want[1]:
            return "channels come second: x.permute(0, 3, 1, 2)"
        return f"pass {want[1]} channels, as the network was made for"
    return "resize it, or pack the model with an example of this size"


def _only_text(network: Network, programs: Sequence[Program]) -> str:
    """The program that is the whole network and returns one tensor; "" where there is more to it."""
    node = whole_region(network, len(programs[0].outputs)) if programs else None
    if node is None or not isinstance(network.output, NodeArg):
        return ""
    order = [arg.index for arg in node.args if isinstance(arg, InputArg)]
    return programs[0].to_json() if order == list(range(len(network.inputs))) else ""


def _in_memory(network: Network, constants: Mapping[str, Tensor]) -> list[Tensor]:
    found = []
    for spec in network.constants:
        tensor = constants.get(spec.name)
        if tensor is None:
            raise _misfit(f"no constant {spec.name}", "every constant of the network")
        if tensor.dtype != getattr(torch, spec.dtype) or tuple(tensor.shape) != spec.shape:
            raise _misfit(
                f"{spec.name} is {tensor.dtype} of shape {tuple(tensor.shape)}",
                f"{spec.dtype} of shape {spec.shape}",
            )
        half = spec.dtype in ("float16", "bfloat16")
        found.append(tensor.detach().float() if half else tensor.detach().clone())
    return found


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_cast(v, dtype) for v in value)
    if isinstance(value, dict):
        return {k: _cast(v, dtype) for k, v in value.items()}
    return value


def _misfit(given: str, expected: str) -> ProgramError:
    return ProgramError(
        given, expected=expected, mend="load the packed network again, or pack the model again"
    )


def _refused(spec: InputSpec, given: str, mend: str) -> ArgumentError:
    shape = ", ".join("any" if s is None else str(s) for s in spec.shape)
    dtype = "float32, float16 or bfloat16" if spec.dtype == "float32" else spec.dtype
    return ArgumentError(f"the input {spec.name!r} {given}", expected=f"({shape}) of {dtype}", mend=mend)
