"""Training compiled, as ``accelerate launch --dynamo_backend`` has it: the same numbers, resumed alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_resume import Killed, interrupt, kill
from test_stages import epochs_of, staged

from irnet_convert.recipe import Recipe
from irnet_convert.train import finetune
from irnet_convert.train.loop import Trainer


def test_compiled_stages_train_as_eager_ones(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(where: str, **keys: Any) -> Recipe:
        return staged(tiny, precision="fp64", mixup=None, output=str(tmp_path / where), **keys)

    eager = finetune(run("eager"))
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    torch.compiler.reset()
    compiled: list[bool] = []
    step = Trainer._step

    def watching(self: Trainer, *arguments: Any) -> Any:
        compiled.append(hasattr(self.wrapped, "_orig_mod"))
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", watching)
    whole = finetune(run("whole"))
    assert compiled
    assert all(compiled)
    for ours, theirs in zip(epochs_of(whole.run_dir), epochs_of(eager.run_dir), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
        assert ours["eval_top1"] == theirs["eval_top1"]
    weights = load_file(whole.run_dir / "model.safetensors")
    for key, want in load_file(eager.run_dir / "model.safetensors").items():
        torch.testing.assert_close(weights[key], want, rtol=1e-7, atol=1e-9)

    interrupt(monkeypatch, 9, kill)
    with pytest.raises(Killed):
        finetune(run("resumed"))
    monkeypatch.setattr(Trainer, "_step", step)
    resumed = load_file(finetune(run("resumed"), resume=True).run_dir / "model.safetensors")
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
