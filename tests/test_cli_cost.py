"""``bench train`` through the real entry point, and ``bench`` as it is without a kind."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from irnet_convert import cli
from irnet_convert.errors import ArgumentError, PackedFileError

runner = CliRunner()
TINY = ("timm/cifar_resnet20", "--batch", "2", "--rounds", "1", "--threads", "1", "--workers", "0",
        "--input-size", "1x3x8x8")  # fmt: skip


def run(*arguments: str) -> str:
    done = runner.invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_bench_train_prints_a_table_and_json() -> None:
    text = run("bench", "train", *TINY, "--no-authors")
    assert "full precision" in text
    assert "authors" not in text
    assert "%" in text  # how long a step waits for data
    assert "…" not in text  # 80 columns, as in a file: numbers stay whole
    compact = json.loads(run("bench", "train", *TINY, "--no-authors", "--compact", "--json"))["rows"]
    assert [row["name"] for row in compact] == ["full precision", "binary", "binary, compact"]
    rows = json.loads(run("bench", "train", *TINY, "--json"))["rows"]
    assert [row["name"] for row in rows] == ["full precision", "binary", "authors' formulation"]
    assert {(row["network"], row["batch"], tuple(row["size"])) for row in rows} == {(TINY[0], 2, (3, 8, 8))}


def test_help_teaches() -> None:
    assert "bench train" in run("bench", "--help")
    assert "Examples" in run("bench", "train", "--help")
    assert "FILE|MODEL" in run("bench", "packed", "--help")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["train", "--device", "tpu"], ArgumentError, "cpu or cuda"),
        (["train", *TINY[:-1], "1x10"], ArgumentError, "1xCxHxW"),
        (["pyproject.toml"], PackedFileError, "refused"),  # a file, as without any kinds
        (["--threads", "1", "pyproject.toml"], PackedFileError, "refused"),
        (["packed", "pyproject.toml"], PackedFileError, "refused"),
    ],
)
def test_bad_arguments(arguments: list[str], error: type[Exception], hint: str) -> None:
    with pytest.raises(error, match=hint):
        runner.invoke(cli.app, ["bench", *arguments], catch_exceptions=False)
