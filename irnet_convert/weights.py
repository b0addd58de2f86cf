"""Weights from safetensors files, loaded strictly. Files come from others: nothing here reads a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from irnet_convert.errors import CheckpointError, nearest


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file, on the CPU.

    Raises:
        CheckpointError: it is missing, not safetensors or damaged.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"the checkpoint {path} does not exist",
            expected="a .safetensors file",
            mend="correct model.checkpoint, or make it: runs/NAME/model.safetensors comes from training NAME",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read as safetensors: {error}",
            expected="a whole .safetensors file; pickled .pt and .pth files are not read",
            mend="load a pickled one yourself and save it with safetensors.torch.save_file",
        ) from error


def load_strictly(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    mend: str = "use the recipe that it was saved with",
) -> None:
    """Load weights that must fit key by key and shape by shape; the model is untouched if they do not.

    Args:
        model: receives the tensors, converted to its own dtypes.
        tensors: by state-dict key.
        source: what to call them in an error.
        mend: the advice of that error.

    Raises:
        CheckpointError: with the missing and unexpected keys and the shapes that differ.
    """
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems = differences(own, {key: tuple(value.shape) for key, value in tensors.items()})
    if problems:
        unknown = [key for key in tensors if key not in own]
        missing = own.keys() - tensors.keys()
        hint = f"; {nearest(unknown[0], own)}" if unknown and not missing else ""
        raise CheckpointError(
            f"{source} is for another model: {'; '.join(problems)}",
            expected=f"exactly the {len(own)} tensors of this {type(model).__name__}",
            mend=mend + hint,
        )
    model.load_state_dict(dict(tensors))


def differences(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps tensors of the shapes ``given`` from being loaded where ``own`` are expected, in words."""
    problems = [
        _some("missing keys", [key for key in own if key not in given]),
        _some("unexpected keys", [key for key in given if key not in own]),
        _some(
            "other shapes",
            [
                f"{key} {given[key]}, not {shape}"
                for key, shape in own.items()
                if key in given and given[key] != shape
            ],
        ),
    ]
    return [each for each in problems if each]


def _some(what: str, names: list[str], most: int = 8) -> str:
    """``"missing keys: a, b and 3 more"``, or nothing for no names."""
    names = [name if len(name) <= 160 else f"{name[:157]}..." for name in names[:most]] + names[most:]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}" if names else ""
