"""Recipes that the tests of the Hub commit and train, and the commands on recipes."""

from __future__ import annotations

from typing import Any

import yaml
from typer.testing import CliRunner

from irnet_convert import cli

runner = CliRunner()

BASE: dict[str, Any] = {
    "name": "base",
    "description": "the base",
    "model": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 10}},
    "data": {"name": "builtin/synthetic", "workers": 0},
    "optimizer": {"name": "adam", "lr": 0.1},
    "epochs": 2,
    "rewrites": ["activation"],
    "expect": {"metric": "top1", "value": 50.0, "tolerance": 1.0, "note": "measured"},
}

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "name": "timm/vit_tiny_patch16_224",
        "kwargs": {
            "img_size": 8,
            "patch_size": 4,
            "embed_dim": 16,
            "depth": 1,
            "num_heads": 2,
            "num_classes": 10,
        },
    },
    "data": {"name": "builtin/synthetic", "workers": 0, "train_limit": 16, "eval_limit": 8},
    "transforms": {"input_size": [3, 8, 8]},
    "epochs": 1,
    "batch_size": 8,
}


def text(**keys: Any) -> bytes:
    """A recipe's file."""
    return yaml.safe_dump(keys, sort_keys=False).encode()


def run(*arguments: str, code: int = 0, answer: str | None = None) -> str:
    """What ``irnet-convert recipe ...`` prints."""
    done = runner.invoke(cli.app, ["recipe", *arguments], input=answer, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output
