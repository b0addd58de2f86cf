"""timm's pretrained weights: from a repository on the Hub as safetensors, or not at all.

Where a repository has no safetensors, timm takes a pickled file of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import timm
import torch

from irnet_convert.errors import CheckpointError
from irnet_convert.networks.torchvision_weights import weights_alone


@contextmanager
def safe_weights(name: str) -> Iterator[None]:
    """Inside, ``timm.create_model(name, pretrained=True)`` unpickles nothing that comes from the Hub.

    A few old networks of timm's have no repository, only the address of a ``.pth`` file: tensors and plain
    data alone are read from those.

    Raises:
        CheckpointError: the repository has no safetensors.
    """
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        with weights_alone():
            yield
        return

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise CheckpointError(
            f"the weights of timm/{name} in {repository} on the Hub are a pickled file",
            expected="model.safetensors: nothing from the Hub is unpickled",
            mend="load them yourself, save them by safetensors.torch.save_file, name that as checkpoint",
        )

    before = torch.load
    torch.load = refuse
    try:
        yield
    finally:
        torch.load = before
