"""RSign (Liu et al., ReActNet, ECCV 2020, equation (3)): a learnable threshold per channel before the sign.

Forms:
    layer: a binarized layer gains the parameter ``threshold``, one number for each input channel, which
        begins at 0; its activations are +1 where the input is at least that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irnet_convert.graph.plan import Edit
from irnet_convert.graph.rewrites.common import Findings
from irnet_convert.graph.survey import Survey
from irnet_convert.layers import BinaryLayer

FORMS = ("layer",)

_NAME = "rsign"


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """An edit for every layer with 1-bit activations; nothing of the graph changes."""
    paths = [path for path, act_bits in binary.items() if act_bits == 1]
    return Findings(edits=[Edit(rewrite=_NAME, form="layer", owner=path) for path in paths])


def adds(edit: Edit) -> tuple[str, ...]:
    """Keys that the edit adds to the state dict, below its owner's path."""
    return ("threshold",)


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    layer = editor.module(edit.owner)
    if not isinstance(layer, BinaryLayer):
        raise editor.lost(edit)
    layer.add_threshold()
