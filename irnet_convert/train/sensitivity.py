"""What each layer costs: accuracy with only that layer binarized, and with all but it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from irnet_convert.data import Loaders, make_loaders
from irnet_convert.errors import ArgumentError, RecipeError
from irnet_convert.layers import binary_layers, set_binarized
from irnet_convert.recipe import Recipe
from irnet_convert.train.batchnorm import norms_of, reestimate_unless
from irnet_convert.train.evaluate import evaluate
from irnet_convert.train.launch import make_accelerator
from irnet_convert.train.run import build_networks
from irnet_convert.train.rundir import RECIPE, read_recipe
from irnet_convert.train.saved import load
from irnet_convert.train.taken import take


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """Top-1 in % that a layer leaves.

    Attributes:
        path: the layer's.
        only: with this layer binarized and all others real.
        without: with this layer real and all others binarized.
    """

    path: str
    only: float
    without: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What was found; all figures are top-1 in %.

    Attributes:
        real: with nothing binarized (the network as it was rewritten).
        binary: with everything binarized that the policy says.
        layers: in module order.
        images: evaluated each time.
        rules: the policy that was measured, as plain data.
    """

    real: float
    binary: float
    layers: tuple[LayerSensitivity, ...]
    images: int
    rules: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def costliest(self, by: Literal["only", "without"] = "only") -> list[LayerSensitivity]:
        """The layers, the most sensitive first.

        Args:
            by: ``only``: what binarizing the layer takes from the real network; ``without``: what leaving it
                real gives back to the binary one.
        """
        if by == "only":
            return sorted(self.layers, key=lambda layer: layer.only)
        return sorted(self.layers, key=lambda layer: -layer.without)

    def suggestion(self, keep: int, by: Literal["only", "without"] = "only") -> list[dict[str, Any]]:
        """A policy that keeps the most sensitive layers real, and is the measured one for the rest.

        Args:
            keep: how many.
            by: see :meth:`costliest`.

        Returns:
            Rules as plain data, for ``Policy.from_dict`` or a YAML file.

        Raises:
            ArgumentError: that would be none, or all of them.
        """
        if not 0 < keep < len(self.layers):
            raise ArgumentError(
                f"keep={keep} of {len(self.layers)} binarized layers",
                expected=f"1 to {len(self.layers) - 1}",
                mend="choose how many layers stay in full precision",
            )
        kept = {layer.path for layer in self.costliest(by)[:keep]}
        rules = [{"action": "keep", "name": layer.path} for layer in self.layers if layer.path in kept]
        return [*rules, *self.rules]


def sensitivity(
    source: Recipe | str | Path,
    *,
    overrides: Iterable[str] = (),
    images: int = 1000,
    bn_batches: int = 10,
    tell: Callable[[str], None] = lambda line: None,
) -> Sensitivity:
    """Measure a finished run's network, or the one that a recipe starts from, layer by layer.

    Real layers use weights and activations as they are (``layers.set_binarized``); the graph stays as it was
    rewritten. In one process.

    Args:
        source: a run's directory, or a recipe, its name or path.
        overrides: ``"key.sub=value"`` strings for the recipe.
        images: of the evaluation data, drawn by the recipe's seed.
        bn_batches: training batches from which BatchNorm's statistics are computed anew before each
            evaluation; 0 leaves them. Without, figures say more of statistics that do not fit than of layers.
        tell: called with a line for each layer that is done.

    Returns:
        The figures.

    Raises:
        IrnetError: no such run or recipe, or its network or data cannot be used.
        RecipeError: its policy is null.
        ArgumentError: a number out of range.
    """
    if images < 1 or bn_batches < 0:
        raise ArgumentError(
            f"images={images}, bn_batches={bn_batches}",
            expected="images of 1 or more, batches of 0 or more",
            mend="1000 images and 10 batches take about half a minute a layer pair on a small network",
        )
    model, recipe = _network(source, [*overrides, f"data.eval_limit={images}"])
    if recipe.policy is None:
        raise RecipeError(
            f"the recipe {recipe.name!r} has policy: null",
            expected="a network with binarized layers",
            mend="set policy=irnet",
        )
    accelerator = make_accelerator(precision=recipe.precision, processes=1)
    loaders = make_loaders(recipe, processes=1, process_index=0)
    model.to(accelerator.device, torch.float64 if recipe.precision == "fp64" else torch.float32).eval()
    measure = _Measuring(model, loaders, bn_batches, accelerator)
    rules = tuple(recipe.build_policy().to_dict())
    with _restored(model):
        return _walk(measure, rules, tell)


def _network(source: Recipe | str | Path, overrides: list[str]) -> tuple[nn.Module, Recipe]:
    if isinstance(source, str | Path) and (Path(source) / RECIPE).is_file():
        recipe = read_recipe(Path(source))
        return load(source), Recipe.from_dict(recipe.to_dict(), source=str(source), overrides=overrides)
    recipe = take(source, overrides).recipe
    set_seed(recipe.seed)
    return build_networks(recipe)[0], recipe


class _Measuring:
    """Evaluates a network as it stands; BatchNorm's statistics are made for it first."""

    def __init__(self, model: nn.Module, loaders: Loaders, batches: int, accelerator: Accelerator) -> None:
        self.model, self.loaders, self.batches, self.accelerator = model, loaders, batches, accelerator
        self.dtype = next(model.parameters()).dtype
        self.images = 0

    def top1(self) -> float:
        """In %."""
        if self.batches:
            self.loaders.set_epoch(0)
            some = itertools.islice(self._training_images(), self.batches)
            reestimate_unless(lambda: False, self.model, some, self.accelerator)
        found = evaluate(self.model, self.loaders.eval, self.accelerator)
        self.images = int(found["count"])
        return float(found["top1"])

    def _training_images(self) -> Iterator[Tensor]:
        for images, _ in self.loaders.train:
            yield images.to(self.accelerator.device, self.dtype)


def _walk(measure: _Measuring, rules: tuple[dict[str, Any], ...], tell: Callable[[str], None]) -> Sensitivity:
    model, found = measure.model, []
    set_binarized(model, "none")
    real = measure.top1()
    set_binarized(model, "both")
    binary = measure.top1()
    tell(f"nothing binarized {real:.2f} %, everything {binary:.2f} %")
    for path, layer in binary_layers(model):
        set_binarized(model, "none")
        layer.real_weights = layer.real_activations = False  # it alone: an attention holds a binary layer
        only = measure.top1()
        set_binarized(model, "both")
        layer.real_weights = layer.real_activations = True
        without = measure.top1()
        found.append(LayerSensitivity(path=path, only=only, without=without))
        tell(f"{path}: only it {only:.2f} %, all but it {without:.2f} %")
    return Sensitivity(real=real, binary=binary, layers=tuple(found), images=measure.images, rules=rules)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Afterwards everything is binarized, and BatchNorm's statistics are what they were."""
    before = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms_of(model)]
    try:
        yield
    finally:
        set_binarized(model, "both")
        for norm, buffers in zip(norms_of(model), before, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
