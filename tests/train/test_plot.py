"""The pictures of a run show what its log says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot
from PIL import Image
from typer.testing import CliRunner

from irnet_convert.cli import app
from irnet_convert.errors import CheckpointError, MissingExtraError
from irnet_convert.train import finetune
from irnet_convert.train import plot as module
from irnet_convert.train.plot import plot_run, read_epochs


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory: recipe and log alone, the log of twelve layers and two epochs."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text("{name: mine, model: {name: timm/x}, data: {name: y}, epochs: 2}")
    records: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    for epoch in (1, 2):
        layers = {f"layer{number}": number / 20 / epoch for number in range(12)}
        records.append(
            {
                "event": "epoch", "step": 4 * epoch, "epoch": epoch, "loss": 2.0 / epoch, "eval_loss": 1.5,
                "eval_top1": 20.0 * epoch, "eval_top5": 50.0, "lr": {"latents": 0.1, "decay": 0.01},
                "ede": {"k": 10.0 / epoch, "t": 0.1 * epoch}, "flipped": 0.2 / epoch,
                "flipped_layers": layers, "saturated_layers": layers, "samples_per_second": 100.0,
            }
        )  # fmt: skip
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"event": "epo')  # one is being written
    return folder


def test_the_curves_are_those_of_the_log(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(module, "_save", lambda figure, folder: figures.append(figure) or [])
    plot_run(run_dir)
    axes = {axis.get_title(): axis for axis in figures[0].axes if axis.get_visible()}
    assert len(axes) == 7
    curves = {
        title: {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        for title, axis in axes.items()
    }
    assert curves["loss"] == {"training": [2.0, 1.0], "evaluation (cross-entropy)": [1.5, 1.5]}
    assert curves["accuracy, %"]["top-1"] == [20.0, 40.0]
    assert curves["learning rate"] == {"latents": [0.1, 0.1], "decay": [0.01, 0.01]}
    assert curves["surrogate gradient: k and t after the epoch"] == {"k": [10.0, 5.0], "t": [0.1, 0.2]}
    flips = axes["binary weights whose sign flipped in the epoch, %"]
    assert len(flips.lines) == 12 + 2  # the layers, one empty line that names them, and all together
    assert [text.get_text() for text in flips.get_legend().get_texts()] == ["12 layers", "all"]
    assert list(flips.lines[3].get_ydata()) == pytest.approx([15.0, 7.5])
    assert list(flips.lines[-1].get_ydata()) == pytest.approx([20.0, 10.0])
    assert list(axes["loss"].lines[0].get_xdata()) == [1, 2]
    assert not pyplot.get_fignums()


def test_the_command_writes_both_pictures_and_the_same_ones_again(run_dir: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plot", str(run_dir), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    png, svg = (tmp_path / "out" / name for name in ("plot.png", "plot.svg"))
    assert done.output.split() == [str(png), str(svg)]
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 1000
    assert svg.read_text().startswith("<?xml")
    first = svg.read_bytes()
    plot_run(run_dir, tmp_path / "out")
    assert svg.read_bytes() == first


def test_a_real_run_of_few_layers_and_a_full_precision_one_are_drawn(tiny: Any, tmp_path: Path) -> None:
    for policy in ("irnet", None):
        run = finetune(tiny(policy=policy, output=str(tmp_path / str(policy)), epochs=1)).run_dir
        assert [path.name for path in plot_run(run)] == ["plot.png", "plot.svg"]
        assert all((run / name).stat().st_size > 1000 for name in ("plot.png", "plot.svg"))


def test_what_cannot_be_drawn_is_said(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        plot_run(tmp_path / "nowhere")
    log = tmp_path / "metrics.jsonl"
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_epochs(log)
    log.write_text('{"event": "start"}\n')
    with pytest.raises(CheckpointError, match="has no epoch yet"):
        read_epochs(log)
    log.write_text("[1]\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_epochs(log)
    with pytest.raises(CheckpointError, match="cannot be written to"):
        plot_run(run_dir, log / "below")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"(?s)matplotlib.*irnet-convert\[plot\]"):
        plot_run(run_dir)
