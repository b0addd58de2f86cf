"""``from_pretrained``: a saved model, from a directory or from the Hub, as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from irnet_convert.errors import HubError, IrnetError, PretrainedError
from irnet_convert.hub import Resolved, fetch, parse_name, resolve
from irnet_convert.networks.origin import Origin, set_origin
from irnet_convert.pretrained.build import build, check_fits
from irnet_convert.pretrained.config import Config, parse_config
from irnet_convert.pretrained.limits import MAX_CONFIG
from irnet_convert.pretrained.states import put_states
from irnet_convert.pretrained.stored import Stored, open_weights

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a saved model lies.

    Attributes:
        name: for people: a directory, or ``hf://org/name@commit``.
        get: file name → its local path, fetched if need be; (name, most bytes).
        commit: of the repository; None for a directory.
    """

    name: str
    get: Callable[[str, int], Path]
    commit: str | None = None


def from_pretrained(
    dir_or_repo: str | Path, *, revision: str | None = None, offline: bool = False
) -> nn.Module:
    """A model that :func:`irnet_convert.save_pretrained` wrote, from a directory or from the Hub.

    The architecture is built by its name, without its original weights; the saved plan is replayed, and the
    weights are loaded strictly. On the same machine, with the same versions of the libraries, its outputs are
    those of the saved model, bit for bit. The files may come from anybody: nothing in them is executed, and
    what would take more than the weights that are there is refused before it is made.

    Args:
        dir_or_repo: an existing directory, or ``org/name``, ``org/name@revision``, ``hf://org/name@revision``.
        revision: branch, tag or commit of the repository, instead of one in the name.
        offline: use what huggingface_hub's cache holds; ``HF_HUB_OFFLINE=1`` says so too.

    Returns:
        The model in evaluation mode on the CPU, binary layers with their latent weights and where they stand
        in the schedule of the surrogate gradient. ``irnet_convert.networks.origin.origin_of(model)`` says how
        images become its inputs, and what its classes are called.

    Raises:
        PretrainedError: missing, damaged, altered, of another version, or it asks for what is refused.
        HubError: the repository cannot be had.
        UnknownNameError: its architecture is not known to the installed libraries.
        ModelError: the libraries refuse its arguments.
        PolicyError: its plan does not fit; so does a RewriteError say.
    """
    place = locate(dir_or_repo, revision=revision, offline=offline)
    with _told(place):
        config = read_config(place)
        stored = open_weights(config.files, lambda name: place.get(name, config.files[name].size))
        model = build(config, stored, "the model")
        _load(model, stored)
        put_states(model, config.binary_layers)
    set_origin(model, origin_from(config))
    _tell_timm(model, config)
    return model.eval()


def locate(dir_or_repo: str | Path, *, revision: str | None = None, offline: bool = False) -> Place:
    """Where a saved model lies: an existing directory first, then the Hub, at one commit.

    Raises:
        PretrainedError: a revision of a directory, or a file instead of a directory.
        HubError: the repository cannot be had.
    """
    path = Path(dir_or_repo)
    if isinstance(dir_or_repo, Path) or not str(dir_or_repo).startswith("hf://"):
        if os.path.isdir(path):  # which takes any text
            if revision is not None:
                raise PretrainedError(
                    f"revision={revision!r} of the directory {path}", expected="a directory has none",
                    mend=f"for the repository on the Hub write hf://{dir_or_repo}",
                )  # fmt: skip
            return Place(name=str(path), get=lambda name, most: _local(path, name, most))
        if isinstance(dir_or_repo, Path) or os.path.exists(path) or _means_a_path(str(dir_or_repo)):
            raise PretrainedError(
                f"there is no directory {str(dir_or_repo)!r}",
                expected="a directory that irnet_convert.save_pretrained wrote, or org/name on the Hub",
                mend="correct the path",
            )
    name = parse_name(str(dir_or_repo))
    if name.path is not None or (revision is not None and name.revision is not None):
        raise HubError(
            f"{dir_or_repo!r}{f' with revision={revision!r}' if revision else ''}",
            expected="a repository, and at most one revision of it",
            mend=f"from_pretrained({name.repo_id!r}, revision=...)",
        )
    if name.repo_type == "dataset":
        raise HubError(
            f"{dir_or_repo!r}, a dataset repository", expected="a model repository",
            mend=f"from_pretrained({name.repo_id!r}) loads the model repository of that name",
        )  # fmt: skip
    if revision is not None:
        name = parse_name(f"{name}@{revision.replace('/', '%2F')}")
    found = resolve(replace(name, repo_type="model"), offline=offline or None)
    return Place(
        name=str(found.at()), commit=found.commit, get=lambda file, most: _fetched(found, file, most)
    )


def _means_a_path(text: str) -> bool:
    # A name on the Hub has a slash.
    return text.startswith((".", "/", "~", "\\")) or "\\" in text or "/" not in text


def _local(folder: Path, name: str, most: int) -> Path:
    path = folder / name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise PretrainedError(
            f"there is no {name} in it ({error.strerror})",
            expected="every file that irnet_convert.save_pretrained wrote",
            mend="irnet_convert.load reads the directory of a run, which this is"
            if (folder / "recipe.yaml").is_file()
            else "copy the directory again, whole",
        ) from error
    if size > most or not path.is_file():
        raise PretrainedError(
            f"{name} has {size:,} bytes", expected=f"a file of at most {most:,}",
            mend="copy the directory again; it was altered",
        )  # fmt: skip
    return path


def _fetched(found: Resolved, name: str, most: int) -> Path:
    return fetch(found, name, max_bytes=most)


def read_config(place: Place) -> Config:
    """The config of a saved model.

    Raises:
        PretrainedError: see :func:`~irnet_convert.pretrained.config.parse_config`.
        HubError: it cannot be had.
    """
    return parse_config(place.get(CONFIG, MAX_CONFIG).read_bytes(), where=CONFIG)


def origin_from(config: Config) -> Origin:
    """What a config says of where its network comes from."""
    return Origin(
        name=config.architecture.name, kwargs=config.architecture.kwargs, source=config.source,
        images=config.images, labels=config.labels,
    )  # fmt: skip


def _load(model: nn.Module, stored: Stored) -> None:
    """Cast each tensor to the dtype that it is stored in, then load."""
    tensors = stored.read()
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    for key, tensor in own.items():
        if tensor.is_floating_point() and tensor.dtype != stored.entries[key].dtype:
            tensor.data = tensor.data.to(stored.entries[key].dtype)
    check_fits(model, stored, "the model")
    model.load_state_dict(tensors)


def _tell_timm(model: nn.Module, config: Config) -> None:
    """Have timm's data functions (``resolve_model_data_config``) find the images that this model takes."""
    described: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(described, dict) and config.images is not None:
        known = config.images.model_dump()
        vars(model)["pretrained_cfg"] = {**described, **known}


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Say in every error which saved model it is about."""
    try:
        yield
    except HubError:
        raise
    except IrnetError as error:
        raise type(error)(
            f"the saved model {place.name} is refused: {error.given}",
            expected=error.expected,
            mend=error.mend,
        ) from error
