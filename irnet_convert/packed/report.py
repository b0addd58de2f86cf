"""What a packed network is made of, for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from irnet_convert.packed import ops
from irnet_convert.packed.blob import stored_bytes
from irnet_convert.packed.network import Network, OpNode
from irnet_convert.packed.steps import Program, Step


@dataclass(frozen=True, kw_only=True)
class RegionReport:
    """One fused region.

    Attributes:
        steps: number of steps by kind.
        kernel: what runs it: "avx512", "avx2", "portable", "neon", or "reference".
        bytes: of its constants in storage.
        bit_bytes: of its packed weights among them.
    """

    steps: dict[str, int]
    kernel: str
    bytes: int
    bit_bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """A packed network.

    Attributes:
        regions: fused regions, in the order of their programs.
        operators: operators that stay in PyTorch, by name, and how often each is called.
        image_size: whether sizes other than the recorded one are taken.
    """

    regions: tuple[RegionReport, ...]
    operators: dict[str, int]
    image_size: str

    def summary(self) -> str:
        """One line."""
        kernels = ", ".join(sorted({r.kernel for r in self.regions}))
        steps = sum(sum(r.steps.values()) for r in self.regions)
        left = sum(self.operators.values())
        return (
            f"{len(self.regions)} fused region(s) of {steps} steps on {kernels}; "
            + (f"{left} operators stay in PyTorch" if left else "nothing stays in PyTorch")
        )  # fmt: skip

    def __str__(self) -> str:
        lines = [self.summary()]
        for number, region in enumerate(self.regions):
            steps = ", ".join(f"{n} {kind}" for kind, n in region.steps.items())
            lines.append(
                f"  region {number} ({region.kernel}): {steps}; {region.bytes / 1e6:.2f} MB, "
                f"of it {region.bit_bytes / 1e6:.2f} MB packed weights"
            )
        if self.operators:
            lines.append("  in PyTorch: " + ", ".join(f"{n} {op}" for op, n in self.operators.items()))
        return "\n".join([*lines, f"  image size: {self.image_size}"])


def report_of(network: Network, programs: Sequence[Program], device: torch.device) -> Report:
    """The report of a network on a device."""
    regions = []
    for program in programs:
        sizes = [(stored_bytes(c), c.dtype == "bits") for c in program.constants]
        regions.append(
            RegionReport(
                steps=dict(Counter(_kind(step) for step in program.steps)),
                kernel=kernel_of(device),
                bytes=sum(size for size, _ in sizes),
                bit_bytes=sum(size for size, bits in sizes if bits),
            )
        )
    left = Counter(
        node.op.removeprefix("aten.") for node in network.nodes
        if isinstance(node, OpNode) and not node.op.startswith(("operator.", "aten.sym_", "torch.sym_"))
    )  # fmt: skip
    free = any(None in spec.shape[2:] for spec in network.inputs if len(spec.shape) == 4)
    fixed = [s.shape[2:] for s in network.inputs if len(s.shape) == 4]
    size = (
        "any that the layers allow"
        if free or not fixed
        else " and ".join("×".join(map(str, f)) for f in fixed)
    )
    return Report(regions=tuple(regions), operators=dict(left.most_common()), image_size=size)


def _kind(step: Step) -> str:
    """What a step is, and of a stem on integers how many bits its inputs have."""
    bits = getattr(step, "input_bits", None)
    return f"{step.kind} on {bits}-bit integers" if bits else step.kind


def kernel_of(device: torch.device) -> str:
    """What runs programs on a device."""
    native = ops.engine()
    return native.isa_in_use() if native is not None and device.type == "cpu" else "reference"
