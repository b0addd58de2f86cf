"""Which tensor lies in which file, as the Hub's libraries cut large models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor  # a name on the Hub is found without it


def split_weights(tensors: Mapping[str, Tensor], max_shard_size: int | str) -> dict[str, list[str]]:
    """File name → keys of the tensors in it; one file where all of them fit into it.

    Args:
        tensors: by key.
        max_shard_size: bytes, or text such as ``"5GB"``.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    return dict(
        split_torch_state_dict_into_shards(
            dict(tensors), filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
        ).filename_to_tensors
    )
