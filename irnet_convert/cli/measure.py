"""A process of its own for what a running one cannot measure: the first call, and the memory at its peak.

``python -m irnet_convert.cli.measure packed|torch NAME SHAPE THREADS [KWARGS]`` prints one JSON object. For a
packed file it imports nothing but what loading needs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(kind: str, name: str, shape: str, threads: str, kwargs: str = "{}") -> dict[str, float]:
    """Load a network, call it, and say what it took.

    Args:
        kind: "packed" for a file, "torch" for a model by name.
        name: the file or the model.
        shape: of the input, as in 1x3x224x224.
        threads: how many.
        kwargs: of the model, as JSON.

    Returns:
        ``torch_import``, ``own_import``, ``load`` and ``first`` in seconds; ``peak``: bytes at the peak of
        some calls beyond those that the process held once the network was loaded (-1 where the system
        does not say).
    """
    begin = time.perf_counter()
    import torch

    after_torch = time.perf_counter()
    load = _packed() if kind == "packed" else _full_precision(kwargs)
    torch.set_num_threads(int(threads))
    x = torch.zeros(*map(int, shape.split("x")))
    after_own = time.perf_counter()
    model = load(name)
    after_load = time.perf_counter()
    held = _status("VmRSS")
    _reset_peak()
    with torch.inference_mode():
        model(x)
        after_first = time.perf_counter()
        for _ in range(3):
            model(x)
    return {
        "torch_import": after_torch - begin, "own_import": after_own - after_torch,
        "load": after_load - after_own, "first": after_first - after_load,
        "peak": _status("VmHWM") - held if held > 0 else -1,
    }  # fmt: skip


def _packed() -> Any:
    from irnet_convert.packed.file import load_packed

    return load_packed


def _full_precision(kwargs: str) -> Any:
    from irnet_convert.cli.options import model_named

    return lambda name: model_named(name, kwargs).eval()


def _status(field: str) -> int:
    """A field of Linux's /proc/self/status, in bytes; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def _reset_peak() -> None:
    """Start VmHWM anew from what is held now."""
    import contextlib

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
