"""A saved plan back onto a fresh model of the same architecture."""

from __future__ import annotations

from torch import nn

from irnet_convert.graph.apply import Undo, apply_plan
from irnet_convert.graph.plan import Plan


def replay(model: nn.Module, plan: Plan) -> nn.Module:
    """Convert ``model`` in place exactly as ``plan`` says, without recording it again.

    Args:
        model: a full-precision model of the plan's architecture.
        plan: from ``plan_of`` or ``Plan.from_dict``.

    Returns:
        The same object, converted.

    Raises:
        PolicyError: the plan does not fit the model; the model is left as it was.
        RewriteError: an edit's place is not there; the model is left as it was.
    """
    with Undo() as undo:
        apply_plan(model, plan, undo)
    return model
