"""``save_pretrained``: a model as a directory that can be built again, and uploaded as it stands."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from irnet_convert.convert import is_binarized
from irnet_convert.durable import write_synced
from irnet_convert.errors import IrnetError, PretrainedError
from irnet_convert.hub import split_weights
from irnet_convert.networks.origin import Images, Origin
from irnet_convert.packed import pack, save_packed
from irnet_convert.packed.model import PackedModel
from irnet_convert.pretrained.card import Card, card_text
from irnet_convert.pretrained.config import FORMAT, FORMAT_VERSION, Config, parse_config
from irnet_convert.pretrained.folder import check_names, written_whole
from irnet_convert.pretrained.load import CONFIG
from irnet_convert.pretrained.rebuild import dtype_of, plan_or_none, proven_origin
from irnet_convert.pretrained.states import states_of
from irnet_convert.pretrained.stored import (
    DTYPES,
    INDEX,
    PACKED,
    WEIGHTS,
    describe_file,
    index_of,
)
from irnet_convert.recipe import ModelSpec

CARD = "README.md"
_OURS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PACKAGES = ("irnet-convert", "torch", "timm", "torchvision", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the caller of :func:`save_pretrained` says of the model."""

    images: Images | None = None
    labels: tuple[str, ...] | None = None
    metrics: Mapping[str, float | int] | None = None
    dataset: str | None = None
    license: str | None = None


def save_pretrained(
    model: nn.Module,
    directory: str | Path,
    *,
    architecture: ModelSpec | str | None = None,
    images: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float | int] | None = None,
    dataset: str | None = None,
    license: str | None = None,
    packed: bool = True,
    max_shard_size: int | str = "5GB",
    name: str | None = None,
) -> Path:
    """Write a model so that :func:`irnet_convert.from_pretrained` gives it back, bit for bit.

    Written are ``config.json`` (architecture, plan, images, labels, versions), ``model.safetensors`` (with
    the latent weights; several files and an index above ``max_shard_size``), ``packed.safetensors`` where the
    model can be packed, and a model card, ``README.md``. Before that it is proved that the architecture's
    name and arguments build this model again: the same modules with the same settings, the same tensors.

    Args:
        model: of :func:`irnet_convert.binarize`, or a full-precision model; in any mode, on any device.
        directory: new or empty, or one that holds a saved model, which is replaced.
        architecture: ``timm/NAME``, ``torchvision/NAME``, or a ``ModelSpec`` with arguments. Left out, it is
            what ``load``, ``from_pretrained`` or ``create_model`` kept on the model, or what timm says of its
            own; a model of torchvision's that you made yourself needs it.
        images: ``input_size`` (C, H, W), ``mean``, ``std``, ``interpolation``, ``crop_pct``; left out, what
            is known of the model.
        labels: names of the classes, in the order of the outputs.
        metrics: what was measured, as in ``{"top1": 95.8}`` in percent.
        dataset: on what.
        license: of the weights, as the Hub names it (``apache-2.0``).
        packed: whether to pack the model, too.
        max_shard_size: of one weights file, in bytes or as in ``"2GB"``.
        name: how the card says to load it; the directory's name if left out.

    Returns:
        The directory.

    Raises:
        PretrainedError: the model cannot be saved, its architecture is not known, or does not give this model
            again; a foreign directory; the disk refused. Nothing is written then, and nothing is lost.
        UnknownNameError: there is no such architecture.
    """
    target = Path(directory)
    check_target(target)
    said = _said(images, labels, metrics, dataset, license)
    tensors = _tensors_of(model)
    origin = proven_origin(model, architecture)
    origin = replace(origin, images=said.images or origin.images, labels=said.labels or origin.labels)
    with written_whole(target, _names_in(target)) as aside:
        why_not = _write_packed(model, origin, aside) if packed else "it was saved without"
        _write_weights(tensors, max_shard_size, aside)
        config = _config(model, origin, said, aside)
        text = card_text(
            model,
            config,
            Card(name=name or target.resolve().name, not_packed=why_not, dataset=dataset, license=license),
        )
        write_synced(aside / CARD, text.encode())
        write_synced(aside / CONFIG, _checked(config))
    return target


def check_target(target: Path) -> None:
    """Refuse a place that must not be written to; touches nothing.

    Raises:
        PretrainedError: a file, or a directory that holds something else than a saved model.
    """
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise PretrainedError(
            f"{target} is no directory", expected="a new or empty directory, or a saved model's",
            mend="choose another place",
        )  # fmt: skip
    check_names(target, _names_in(target))
    names = [path.name for path in target.iterdir()]
    if names:
        try:
            parse_config((target / CONFIG).read_bytes(), where=CONFIG)
        except (OSError, IrnetError) as error:
            raise PretrainedError(
                f"{target} is not empty and holds no saved model of this format",
                expected="a new or empty directory, or a saved model's", mend="choose another place",
            ) from error  # fmt: skip


def _names_in(target: Path) -> set[str]:
    """Names of files in ``target`` that a saved model has."""
    ours = {CONFIG, WEIGHTS, INDEX, PACKED, CARD}
    return (
        {p.name for p in target.iterdir() if p.name in ours or _OURS.fullmatch(p.name)}
        if target.is_dir()
        else set()
    )


def _said(
    images: Mapping[str, Any] | None,
    labels: Sequence[str] | None,
    metrics: Mapping[str, float | int] | None,
    dataset: str | None,
    license: str | None,
) -> Said:
    try:
        return Said(
            images=None if images is None else Images.model_validate({**images}),
            labels=None if labels is None else tuple(map(str, labels)),
            metrics=None if metrics is None else {str(k): v for k, v in metrics.items()},
            dataset=dataset, license=license,
        )  # fmt: skip
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        raise PretrainedError(
            f"images={dict(images or {})}: {'.'.join(map(str, what['loc']))}: {what['msg']}",
            expected="input_size (C, H, W), mean, std, interpolation, crop_pct",
            mend="images={'input_size': (3, 224, 224), 'mean': (0.485, ...), 'std': (0.229, ...)}",
        ) from error


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, which must hold dense tensors with values alone.

    Raises:
        PretrainedError: it does not.
    """
    plan_or_none(model)
    if isinstance(model, PackedModel):
        raise PretrainedError(
            "the model is packed", expected="a model with weights that can be trained",
            mend="irnet_convert.save_packed(model, FILE), or save the model that was packed",
        )  # fmt: skip
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            problem = f"a {type(value).__name__}"
        elif value.is_meta or value.layout is not torch.strided or value.dtype not in DTYPES.values():
            problem = f"of {value.dtype} and {value.layout} on {value.device}"
        else:
            continue
        raise PretrainedError(
            f"{key} of this {type(model).__name__} is {problem}",
            expected="dense tensors with values, of the dtypes " + ", ".join(DTYPES),
            mend="load the model's weights, or convert that tensor, before saving",
        )
    return state


def _write_packed(model: nn.Module, origin: Origin, folder: Path) -> str | None:
    """Write packed.safetensors; None, or why it cannot be."""
    if not is_binarized(model):
        return "it is a full-precision network"
    if states := [s for s in states_of(model) if s.real_weights or s.real_activations]:
        return f"{len(states)} groups of its layers are in a stage of training in which not all is binary"
    example = None if origin.images is None else torch.zeros(1, *origin.images.input_size)
    try:
        made = pack(model, example_input=example)
        made.source.update(origin.for_packed())
        save_packed(made, folder / PACKED)
    except IrnetError as error:
        return error.given
    return None


def _write_weights(tensors: Mapping[str, Tensor], max_shard_size: int | str, folder: Path) -> None:
    """One file or several; each tensor by itself, also where two share their memory."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for key, value in tensors.items():
        storage = value.untyped_storage().data_ptr()
        apart[key] = value.detach().clone() if storage in seen else value.detach()
        seen.add(storage)
    try:
        split = split_weights(apart, max_shard_size)
    except ValueError as error:
        raise PretrainedError(
            f"max_shard_size={max_shard_size!r}: {error}",
            expected="bytes, or as in '2GB'",
            mend="leave it out",
        ) from error
    for name, keys in split.items():
        ready = {key: torch.empty(apart[key].shape, dtype=apart[key].dtype).copy_(apart[key]) for key in keys}
        write_synced(folder / name, safetensors.torch.save(ready, {"format": "pt"}))
    if len(split) > 1:
        write_synced(folder / INDEX, index_of(split, apart))


def _config(model: nn.Module, origin: Origin, said: Said, folder: Path) -> Config:
    plan = plan_or_none(model)
    raw = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "architecture": {"name": origin.name, "kwargs": dict(origin.kwargs)},
        "dtype": dtype_of(model),
        "plan": None if plan is None else _lists(plan.to_dict()),
        "binary_layers": [state.model_dump(mode="json") for state in states_of(model)],
        "images": None if origin.images is None else origin.images.model_dump(mode="json"),
        "labels": None if origin.labels is None else list(origin.labels),
        "metrics": dict(said.metrics or {}),
        "source": origin.source,
        "versions": {package: metadata.version(package) for package in _PACKAGES}
        | {"python": platform.python_version()},
        "files": {path.name: describe_file(path) for path in sorted(folder.iterdir())},
    }
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        raise PretrainedError(
            f"{type(model).__name__} cannot be described: {'.'.join(map(str, what['loc']))}: {what['msg']}",
            expected="what config.json can hold", mend="correct what you passed to save_pretrained",
        ) from error  # fmt: skip


def _checked(config: Config) -> bytes:
    """The config's text, once it is read back as it will be."""
    data = config.to_json().encode()
    parse_config(data, where=CONFIG)
    return data


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
