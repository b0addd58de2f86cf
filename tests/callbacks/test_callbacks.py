"""The schedule in real trainers: what k and t were at every step, interrupted and resumed too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from irnet_convert import BinaryLinear
from irnet_convert.binary.irnet import ede_schedule
from irnet_convert.callbacks.clock import Clock
from irnet_convert.errors import ArgumentError, ModelError

STEPS, EPOCHS = 4, 3  # in an epoch; of the training


class Images(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 2 * STEPS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.full((6,), float(index)), "labels": torch.tensor(index % 2)}


class Student(nn.Module):
    """Notes the state of its binary layer whenever it is called in training."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = BinaryLinear(6, 8), nn.Linear(8, 2)
        self.seen: list[tuple[float, ...]] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.seen.append(tuple(self.hidden.ede.tolist()))
        logits = self.head(self.hidden(x))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def expected(per: str, t_min: float = 0.1, t_max: float = 10.0) -> list[tuple[float, ...]]:
    steps = range(STEPS * EPOCHS)
    done = [i / len(steps) if per == "step" else (i // STEPS) / EPOCHS for i in steps]
    return [pytest.approx(ede_schedule(f, t_min, t_max), rel=1e-5) for f in done]


def train_by_transformers(student: nn.Module, folder: Path, resume: bool = False, **kwargs: Any) -> None:
    import transformers

    from irnet_convert.callbacks.transformers import EdeCallback

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = stop_at is not None and state.global_step >= stop_at

    stop_at = kwargs.pop("stop_at", None)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=2, report_to="none",
        save_strategy="steps", save_steps=1, disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=student, args=arguments, train_dataset=Images(), callbacks=[EdeCallback(**kwargs), Stop()]
    )
    trainer.train(resume_from_checkpoint=resume)


def train_by_lightning(student: nn.Module, folder: Path, resume: bool = False, **kwargs: Any) -> None:
    import lightning.pytorch as lightning

    from irnet_convert.callbacks.lightning import EdeCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            return self.student(**batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = stop_at is not None and trainer.global_step >= stop_at

    stop_at, epochs = kwargs.pop("stop_at", None), kwargs.pop("epochs", EPOCHS)
    saved = lightning.callbacks.ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EdeCallback(**kwargs), Stop(), saved], min_epochs=0,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Images(), batch_size=2)
    trainer.fit(Module(), loader, ckpt_path=str(folder / "last.ckpt") if resume else None)


TRAINERS = {"transformers": train_by_transformers, "lightning": train_by_lightning}

# What the trainers say of themselves on a machine without a GPU, of small data and of being stopped.
pytestmark = pytest.mark.filterwarnings("ignore:::(lightning|transformers|torch)\\.")


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
@pytest.mark.parametrize("kwargs", [{}, {"per": "epoch"}, {"t_min": 1e-3, "t_max": 5.0}])
def test_every_step_has_its_k_and_t(train: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    student = Student()
    train(student, tmp_path, **kwargs)
    assert student.seen == expected(**{"per": "step", **kwargs})


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_a_resumed_training_goes_on_with_the_schedule(train: Any, tmp_path: Path) -> None:
    student = Student()
    train(student, tmp_path, stop_at=5)
    assert student.seen == expected("step")[:5]
    student = Student()
    train(student, tmp_path, resume=True)
    assert student.seen == expected("step")[5:]


@pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
def test_what_it_cannot_do_is_said_at_the_first_step(train: Any, tmp_path: Path) -> None:
    student = Student()
    student.hidden = nn.Linear(6, 8)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ModelError, match="binary layer"):
        train(student, tmp_path)
    with pytest.raises(ArgumentError, match="'step' or 'epoch'"):
        train(Student(), tmp_path, per="batch")
    with pytest.raises(ArgumentError, match="t_min"):
        train(Student(), tmp_path, t_min=20.0)


@pytest.mark.parametrize(
    ("per", "steps", "epochs"), [("step", float("inf"), 3), ("epoch", 5, None), ("epoch", 5, -1)]
)
def test_a_training_without_an_end_has_no_schedule(per: Any, steps: float, epochs: Any) -> None:
    with pytest.raises(ArgumentError, match="whose end is known"):
        Clock(per=per).set(Student(), step=0, steps=steps, epoch=0, epochs=epochs)


@pytest.mark.parametrize("name", TRAINERS)
def test_without_the_package_the_extra_is_named(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; import irnet_convert.callbacks.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'irnet-convert[{name}]'" in done.stderr
