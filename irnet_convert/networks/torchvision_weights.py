"""torchvision's own weights: .pth files, so with their hash checked and nothing but tensors read from them.

torchvision asks ``torch.hub`` for ``weights_only=False``, and has the hash of a file checked when it is
downloaded, never that of one that lies in the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch.hub import download_url_to_file

from irnet_convert.errors import CheckpointError
from irnet_convert.networks.origin import Images

# As in resnet18-f37072fd.pth, and resnet18_fbgemm_16fa66dd.pth of the quantized ones.
_HASH = re.compile(r"[-_]([0-9a-f]{8,64})\.pth$")
# PyTorch's own switches: "only tensors, whatever the caller of torch.load says", and its opposite.
_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def weights_alone() -> Iterator[None]:
    """Inside, every ``torch.load`` reads tensors and plain data only, whatever its caller says."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def default_weights(name: str) -> Any:
    """Torchvision's ``DEFAULT`` weights of the model ``name``, in torch.hub's cache and with the right hash.

    Returns:
        The member of torchvision's enumeration, for ``get_model``.

    Raises:
        CheckpointError: the file in the cache is not the one that its name says, or its name says no hash.
        Exception: whatever the download raises.
    """
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    found = _HASH.search(path.name)
    if found is None:
        raise CheckpointError(
            f"the weights {weights.url} have no hash in their name",
            expected="NAME-HASH.pth, so that the file can be checked",
            mend="load them yourself, save them by safetensors.torch.save_file, name that as checkpoint",
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(weights.url, str(path), found[1])  # which checks it, too
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(found[1]):
        raise CheckpointError(
            f"{path} has the SHA-256 {digest[:16]}...",
            expected=f"one that begins with {found[1]}, as torchvision names the file",
            mend="delete the file; it is then downloaded anew",
        )
    return weights


def images_of_weights(weights: Any) -> Images | None:
    """How images become inputs of a classifier with these weights; None for other models."""
    preset = weights.transforms()
    try:
        side, resized = preset.crop_size[0], preset.resize_size[0]
        return Images(
            input_size=(len(preset.mean), side, side), mean=tuple(preset.mean), std=tuple(preset.std),
            interpolation=preset.interpolation.value, crop_pct=min(1.0, side / resized),
        )  # fmt: skip
    except (AttributeError, TypeError, IndexError, ValueError):  # detectors, video, optical flow
        return None
