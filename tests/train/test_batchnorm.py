"""BatchNorm's statistics computed anew: their values, what stays as it was, and that resuming is exact."""

from __future__ import annotations

import copy
import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from conftest import RESNET, TEACHER
from safetensors.torch import load_file
from test_resume import Killed, interrupt, kill, numbers_of
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from irnet_convert.data import make_loaders
from irnet_convert.errors import RecipeError
from irnet_convert.recipe import Recipe
from irnet_convert.train import finetune, load
from irnet_convert.train.batchnorm import reestimate_unless

SIZE = {"transforms": {"input_size": [3, 8, 8], "crop": {"padding": 1}}}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 3), BatchNormAct2d(5),
        nn.BatchNorm2d(5, track_running_stats=False), nn.Flatten(), nn.LazyLinear(3),
    ).double()  # fmt: skip


def test_they_are_the_mean_of_the_batches_own() -> None:
    model = network()
    batches = [torch.randn(n, 3, 6, 6, dtype=torch.float64) for n in (4, 4, 3)]
    model(batches[0])
    model.train()[1].eval()
    momentum, count = model[1].momentum, model[1].num_batches_tracked.clone()
    weights = copy.deepcopy([p.detach() for p in model.parameters()])
    assert reestimate_unless(lambda: False, model, batches, Accelerator(cpu=True))
    first = [model[0](images) for images in batches]
    means = torch.stack([x.mean((0, 2, 3)) for x in first])
    variances = torch.stack([x.var((0, 2, 3)) for x in first])
    torch.testing.assert_close(model[1].running_mean, means.mean(0))
    torch.testing.assert_close(model[1].running_var, variances.mean(0))
    normed = [  # by its own batch's statistics, and no drop-out
        (x - x.mean((0, 2, 3), True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        for x in first
    ]
    second = [model[3](x) for x in normed]
    torch.testing.assert_close(
        model[4].running_mean, torch.stack([x.mean((0, 2, 3)) for x in second]).mean(0)
    )
    assert (model[1].momentum, model[1].num_batches_tracked) == (momentum, count)
    assert [m.training for m in model] == [True, False, *[True] * 6]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_told_to_stop_it_stops_after_the_batch() -> None:
    model, seen = network().eval(), []

    def batches() -> Any:
        for _ in range(5):
            seen.append(1)
            yield torch.randn(2, 3, 6, 6, dtype=torch.float64)

    assert not reestimate_unless(lambda: len(seen) == 2, model, batches(), Accelerator(cpu=True))
    assert len(seen) == 2
    assert not any(m.training for m in model)


def test_a_network_without_it_is_left_alone() -> None:
    assert reestimate_unless(lambda: True, nn.Linear(2, 2), iter(()), Accelerator(cpu=True))


def test_a_run_ends_with_statistics_of_its_last_weights(tiny: Any) -> None:
    recipe = tiny(model=RESNET, epochs=1, reestimate_bn={"batches": 3}, optimizer={"lr": 0.01}, **SIZE)
    model = load(finetune(recipe).run_dir)
    images = [x for x, _ in make_loaders(recipe, processes=1, process_index=0).train][:3]
    # In the layout it was trained in, whose sums are added up in another order.
    other = load(recipe.run_dir).to(memory_format=torch.channels_last)
    assert reestimate_unless(lambda: False, other, images, Accelerator(cpu=True))
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert model.get_buffer("bn1.num_batches_tracked") == 4
    plain = load(
        finetune(
            tiny(model=RESNET, epochs=1, optimizer={"lr": 0.01}, output=str(recipe.run_dir) + "2", **SIZE)
        ).run_dir
    )
    assert torch.equal(plain.conv1.weight, model.conv1.weight)
    assert not torch.equal(plain.bn1.running_mean, model.bn1.running_mean)


STATEFUL: dict[str, Any] = {"model": RESNET, "epochs": 3, "ema": {"decay": 0.8}, **SIZE, **TEACHER}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import TINY

    torch.set_num_threads(1)
    output = str(tmp_path_factory.mktemp("whole") / "run")
    return finetune(Recipe.from_dict({**TINY, **STATEFUL, "output": output})).run_dir


@pytest.mark.parametrize("when", ["step", "reestimation"])
def test_resumed_it_equals_one_that_was_not_interrupted(
    tiny: Any, whole: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Killed in a step; and told to stop while statistics are computed, after the second epoch's steps."""
    recipe, module = tiny(**STATEFUL), importlib.import_module("irnet_convert.train.judge")
    if when == "step":
        interrupt(monkeypatch, 6, kill)
    else:
        real, calls = module.reestimate_unless, []

        def stopping(stop: Any, *rest: Any) -> bool:
            calls.append(rest)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(stop, *rest)

        monkeypatch.setattr(module, "reestimate_unless", stopping)
    with pytest.raises((Killed, SystemExit)):
        finetune(recipe)
    monkeypatch.undo()
    result = finetune(recipe, resume=True)
    assert result.resumed_from is not None
    assert result.resumed_from.name == ("step-000000004" if when == "step" else "step-000000008")
    assert numbers_of(result.run_dir) == numbers_of(whole)
    for file in ("model.safetensors", "checkpoints/step-000000012/model.safetensors"):
        a, b = load_file(whole / file), load_file(result.run_dir / file)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_average_is_judged_by_statistics_of_its_own_unless_told_not_to(tiny: Any) -> None:
    assert tiny().reestimate_bn is None
    assert tiny(ema={}).reestimate_bn.when == "epoch"
    assert tiny(ema={}, reestimate_bn=None).reestimate_bn is None
    assert tiny(ema={}, reestimate_bn={"when": "end"}).reestimate_bn.when == "end"
    assert Recipe.from_dict(tiny(ema={}, reestimate_bn=None).to_dict()).reestimate_bn is None
    with pytest.raises(RecipeError, match=r"reestimate_bn\.when is 'never'"):
        tiny(reestimate_bn={"when": "never"})
