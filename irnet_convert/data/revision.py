"""Which data a run has seen, as far as it can be told: the set's revision, its rows, its labels."""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import Any

import datasets
import numpy as np
from torch.utils.data import DataLoader

from irnet_convert.data.loaders import Loaders
from irnet_convert.data.samples import Samples, StreamedSamples
from irnet_convert.recipe.inputs import DataSpec


def describe_data(spec: DataSpec, loaders: Loaders) -> dict[str, Any]:
    """The data of a run as plain data.

    Args:
        spec: the recipe's block.
        loaders: opened for it.

    Returns:
        ``name``; ``config``; ``revision``: the commit on the Hub that the name meant, a hash over files of
        a directory, the package that built-in data come from, None where it cannot be told; ``labels``: what
        the classes are called, None where the data do not say; and for ``train``
        and ``eval`` the number of ``rows`` and, of data on disk, ``labels_sha256``: of the labels in order,
        as little-endian 64-bit integers.
    """
    return {
        "name": spec.name,
        "config": spec.config,
        "revision": _revision(spec),
        "labels": None if loaders.labels is None else list(loaders.labels),
        "train": _rows(loaders.train),
        "eval": _rows(loaders.eval),
    }


def _revision(spec: DataSpec) -> str | None:
    if spec.name.startswith("builtin/"):
        package = "scikit-learn" if spec.name == "builtin/digits" else "irnet-convert"
        return f"{package} {metadata.version(package)}"
    try:
        builder = datasets.load_dataset_builder(spec.name, spec.config, revision=spec.revision)
    except Exception:  # of many kinds; the data themselves are open already
        return spec.revision
    return builder.hash or spec.revision


def _rows(loader: DataLoader[Any]) -> dict[str, Any]:
    samples = loader.dataset
    if isinstance(samples, StreamedSamples):
        return {"rows": samples.length}
    assert isinstance(samples, Samples)
    labels = np.asarray(samples.rows.with_format(None)[samples.label][:], dtype="<i8")
    return {"rows": len(labels), "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest()}
