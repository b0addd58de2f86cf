"""Evaluation counts every sample once, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from irnet_convert.errors import DataError, ModelError
from irnet_convert.train.evaluate import as_logits, check_classifier, evaluate


def batches(images: torch.Tensor, labels: torch.Tensor, sizes: list[int]) -> list:
    return list(zip(images.split(sizes), labels.split(sizes), strict=True))


@pytest.mark.parametrize("sizes", [[23], [10, 10, 3], [1] * 23, [22, 1]])
@pytest.mark.parametrize("classes", [3, 11])
def test_figures_are_those_of_an_independent_count(sizes: list[int], classes: int) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    images, labels = torch.randn(23, 3, 2, 2), torch.randint(classes, (23,))
    got = evaluate(model, batches(images, labels, sizes))
    logits = model(images.double()).detach().numpy()
    rank = np.array([(row > row[label]).sum() for row, label in zip(logits, labels.numpy(), strict=True)])
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert got["count"] == 23
    assert got["top1"] == pytest.approx(100 * (rank < 1).mean(), rel=1e-12)
    assert got["top5"] == pytest.approx(100 * (rank < 5).mean(), rel=1e-12)
    assert got["loss"] == pytest.approx(-logs[np.arange(23), labels.numpy()].mean(), rel=1e-9)


def test_every_module_is_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.5)), nn.Linear(4, 2))
    model.train()
    model[2].eval()
    evaluate(model, [(torch.randn(5, 1, 2, 2), torch.zeros(5, dtype=torch.long))], "cpu")
    assert [module.training for module in model] == [True, True, False, True]
    assert not model[2][0].training
    assert model[1].running_mean.abs().max() == 0
    with pytest.raises(DataError, match="empty"):
        evaluate(model, [])
    assert model[1].training


def test_labels_beyond_the_classes_are_an_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    for wrong in (2, -1):
        with pytest.raises(DataError, match="2 classes"):
            evaluate(model, [(torch.zeros(2, 1, 2, 2), torch.tensor([0, wrong]))])


def test_of_several_outputs_the_first_counts_and_others_are_refused() -> None:
    logits = torch.zeros(2, 3)
    assert as_logits((logits, torch.zeros(2, 3))) is logits
    for output in (torch.zeros(2, 3, 4, 4), {"out": logits}, ()):
        with pytest.raises(ModelError, match="the model's output is"):
            as_logits(output)


def test_a_classifier_that_cannot_be_trained_is_refused_early() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    check_classifier(model, (3, 2, 2), 4, "student")
    with pytest.raises(ModelError, match="the student has 4 classes and the data 10"):
        check_classifier(model, (3, 2, 2), 10, "student")
    with pytest.raises(ModelError, match=r"the teacher does not run on images of \(3, 5, 5\)"):
        check_classifier(model, (3, 5, 5), 4, "teacher")
