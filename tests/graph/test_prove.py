"""What the proof of a conversion runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from irnet_convert.convert import binarize
from irnet_convert.graph import prove
from irnet_convert.graph.survey import Survey


@pytest.mark.parametrize("moded", [False, True])
def test_a_detector_is_proved_in_training_mode_only_where_that_can_tell(
    moded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keypoint layers run in training mode alone at first, for want of boxes; converted, in both."""
    modes: list[bool] = []
    real = Survey.record

    def counted(self: Survey, model: nn.Module, *, training: bool, twin: Any = None) -> Any:
        modes.append(training)
        return real(self, model, training=training, twin=twin)

    torch.manual_seed(0)
    net = torchvision.models.get_model("keypointrcnn_resnet50_fpn", weights=None, weights_backbone=None)
    monkeypatch.setattr(Survey, "record", counted)
    if moded:  # as if an edited forward had a graph of its own for each mode
        monkeypatch.setattr(prove, "distinct", lambda graphs: [*graphs.values()])
    binarize(net, inplace=True)
    assert modes[-2:] == [False, True] if moded else modes[-1] is False
