"""``push_to_hub``: a model as a repository on the Hub, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from irnet_convert.errors import HubError
from irnet_convert.hub import Uploaded, parse_name, upload
from irnet_convert.pretrained.save import save_pretrained


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    message: str = "Upload a model by irnet-convert",
    private: bool | None = None,
    **how: Any,
) -> Uploaded:
    """Save a model as :func:`irnet_convert.save_pretrained` does, and upload it as one commit.

    Files of an earlier upload that this one does not have (shards, a packed file) stay in the repository;
    ``config.json`` names those that belong to the model.

    Args:
        model: as there.
        repo_id: ``org/name``; made where it does not exist.
        message: the commit's first line.
        private: of a repository that is made; None is the account's default.
        **how: everything else that ``save_pretrained`` takes: ``architecture``, ``images``, ``labels``,
            ``metrics``, ``dataset``, ``license``, ``packed``, ``max_shard_size``.

    Returns:
        The commit: ``repo_id``, ``commit`` (to load it by), ``url``.

    Raises:
        PretrainedError: the model cannot be saved; nothing is uploaded then.
        HubError: the Hub refuses, or cannot be reached.
    """
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="irnet-convert-") as place:
        folder = save_pretrained(model, Path(place, "model"), name=repo_id, **how)
        return push_folder(folder, repo_id, message=message, private=private)


def push_folder(folder: Path, repo_id: str, *, message: str, private: bool | None = None) -> Uploaded:
    """Upload what :func:`irnet_convert.save_pretrained` wrote.

    Raises:
        HubError: as :func:`push_to_hub` says.
    """
    files = {path.name: path for path in sorted(folder.iterdir())}
    return upload(check_repo_id(repo_id), files, message=message, private=private)


def check_repo_id(repo_id: str) -> str:
    """``repo_id``, if it names a repository and nothing in it.

    Raises:
        HubError: it does not.
    """
    name = parse_name(repo_id)
    if name.path is not None or name.revision is not None or name.repo_type == "dataset":
        raise HubError(
            f"{repo_id!r} as a place to upload a model to",
            expected="org/name alone",
            mend=f"push_to_hub(model, {name.repo_id!r})",
        )
    return name.repo_id
