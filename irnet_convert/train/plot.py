"""A run's log as pictures: loss, accuracy, rates, and how the binary layers fared, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irnet_convert.errors import CheckpointError
from irnet_convert.extras import needs
from irnet_convert.train.rundir import LOG, read_recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]

#: More layers than these are drawn in one colour, faint, with their mean: a legend would hide the picture.
NAMED_LAYERS = 8


def plot_run(run_dir: str | Path, output: str | Path | None = None) -> list[Path]:
    """Draw a run's log; it may still be running.

    Args:
        run_dir: the directory that ``finetune`` wrote.
        output: directory of the pictures; the run's own if None.

    Returns:
        ``plot.png`` and ``plot.svg`` there.

    Raises:
        CheckpointError: no run's directory, no finished epoch yet, a log that cannot be read, or a place
            that cannot be written to.
        MissingExtraError: matplotlib is not installed.
    """
    run_dir = Path(run_dir)
    name = read_recipe(run_dir).name
    epochs = read_epochs(run_dir / LOG)
    pyplot = _matplotlib()
    panels = [draw for field, draw in PANELS.items() if all(field in epoch for epoch in epochs)]
    columns = 2
    rows = -(-len(panels) // columns)
    # Names in the file come from a hash, which would be another every time.
    with pyplot.rc_context({"svg.hashsalt": "irnet-convert"}):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(11, 2.9 * rows), squeeze=False, layout="constrained"
        )
        try:
            for axis, draw in zip(axes.flat, panels, strict=False):
                draw(axis, epochs)
                axis.set_xlabel("epoch")
                axis.grid(alpha=0.3)
            for axis in axes.flat[len(panels) :]:
                axis.set_visible(False)
            figure.suptitle(name)
            return _save(figure, Path(output) if output is not None else run_dir)
        finally:
            pyplot.close(figure)


def read_epochs(path: Path) -> list[Record]:
    """The epochs' records of a log; a last line that is still being written is left out.

    Raises:
        CheckpointError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        epochs = [record for record in records if record["event"] == "epoch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the log {path} cannot be read ({error})",
            expected="the metrics.jsonl that a run wrote, a JSON object a line",
            mend="name a run's directory, or restore the file",
        ) from error
    if not epochs:
        raise CheckpointError(
            f"the log {path} has no epoch yet",
            expected="one epoch at least",
            mend="try again after the first",
        )
    return epochs


def _matplotlib() -> Any:
    with needs("plot"):
        import matplotlib

        matplotlib.use("agg")  # no window, so no display is needed
        from matplotlib import pyplot
    return pyplot


def _save(figure: Any, folder: Path) -> list[Path]:
    paths = [folder / "plot.png", folder / "plot.svg"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            date: dict[str, None] = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=150, metadata=date)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written to ({error.strerror or error})",
            expected="a writable directory",
            mend="name another with --output DIRECTORY",
        ) from error
    return paths


def _numbers(epochs: list[Record]) -> list[int]:
    return [epoch["epoch"] for epoch in epochs]


def _lines(axis: Axes, epochs: list[Record], fields: dict[str, str]) -> None:
    """One line for each field that all epochs have, under its label."""
    for field, label in fields.items():
        if all(field in epoch for epoch in epochs):
            axis.plot(_numbers(epochs), [epoch[field] for epoch in epochs], marker=".", label=label)
    axis.legend()


def _layers(axis: Axes, epochs: list[Record], field: str) -> None:
    """A line for each layer: named while they are few, else faint."""
    # Of all epochs: a layer's activations may be real in some stages.
    paths = [path for path in epochs[-1][field] if all(path in epoch[field] for epoch in epochs)]
    named = len(paths) <= NAMED_LAYERS
    for path in paths:
        values = [100 * epoch[field][path] for epoch in epochs]
        style: dict[str, Any] = {"label": path} if named else {"color": "tab:blue", "alpha": 0.25}
        axis.plot(_numbers(epochs), values, linewidth=1, **style)
    if not named:
        axis.plot([], [], color="tab:blue", alpha=0.25, label=f"{len(paths)} layers")


def _draw_loss(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("loss")
    fields = {"loss": "training", "task_loss": "task", "distill_loss": "distillation"}
    _lines(axis, epochs, fields | {"features_loss": "features", "eval_loss": "evaluation (cross-entropy)"})


def _draw_accuracy(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("accuracy, %")
    _lines(axis, epochs, {"eval_top1": "top-1", "eval_top5": "top-5"})


def _draw_rate(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("learning rate")
    for group in epochs[0]["lr"]:
        axis.plot(_numbers(epochs), [epoch["lr"][group] for epoch in epochs], marker=".", label=group)
    axis.legend()


def _draw_ede(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("surrogate gradient: k and t after the epoch")
    for name in ("k", "t"):
        axis.plot(_numbers(epochs), [epoch["ede"][name] for epoch in epochs], marker=".", label=name)
    axis.set_yscale("log")
    axis.legend()


def _draw_flips(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("binary weights whose sign flipped in the epoch, %")
    _layers(axis, epochs, "flipped_layers")
    shares = [100 * epoch["flipped"] for epoch in epochs]
    axis.plot(_numbers(epochs), shares, color="black", marker=".", label="all")
    axis.legend()


def _draw_saturation(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("latents that the gradient no longer reaches, %")
    _layers(axis, epochs, "saturated_layers")
    axis.set_ylim(0, 100)
    axis.legend()


def _draw_inputs(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("activations that the gradient no longer reaches, %")
    _layers(axis, epochs, "saturated_inputs")
    axis.set_ylim(0, 100)
    axis.legend()


def _draw_speed(axis: Axes, epochs: list[Record]) -> None:
    axis.set_title("training samples per second")
    axis.plot(_numbers(epochs), [epoch["samples_per_second"] for epoch in epochs], marker=".")
    axis.set_ylim(bottom=0)


#: Field of an epoch's record → what draws it; a panel for each field that the log has.
PANELS: dict[str, Callable[[Axes, list[Record]], None]] = {
    "loss": _draw_loss,
    "eval_top1": _draw_accuracy,
    "lr": _draw_rate,
    "ede": _draw_ede,
    "flipped": _draw_flips,
    "saturated_layers": _draw_saturation,
    "saturated_inputs": _draw_inputs,
    "samples_per_second": _draw_speed,
}
