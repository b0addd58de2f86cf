"""The share of a model's interior multiply-adds that is binarized, and why the rest is not."""

from __future__ import annotations

import re
from collections import Counter

from irnet_convert.graph.decide import decide
from irnet_convert.graph.survey import Survey
from irnet_convert.policy import Policy
from irnet_convert.report import multiply_adds


def interior_share(survey: Survey) -> tuple[int, int, dict[str, int]]:
    """Multiply-adds of the interior under the policy "interior", for one sample.

    The interior is every layer that is neither first nor last; the policy lifts the rules on downsample,
    depthwise and squeeze-excite layers.

    Args:
        survey: of the unconverted model.

    Returns:
        All of them, those that are binarized, and reason → those that are not.
    """
    rec = survey.records[0]
    macs, _ = multiply_adds(survey.model, rec)
    batch = survey.example.batch or 1
    total = binary = 0
    rest: Counter[str] = Counter()
    for d in decide(survey, Policy.preset("interior")).decisions:
        count = macs[d.path] // batch
        if d.positions or not count:
            continue
        total += count
        if d.action == "binarize":
            binary += count
        else:
            rest[kind_of(d.reason)] += count
    return total, binary, dict(rest)


def kind_of(reason: str) -> str:
    """A decision's reason without the names of layers and values in it, so that reasons can be summed."""
    text = re.sub(r"\([^()]*\bin [^()]*\)", "", reason)  # "(relu in layer1.0)"
    text = re.sub(r"\b(read by|also read by) \S+ in .*?(?= while|$)", r"\1 another module", text)
    text = re.sub(r"\bof [\w.]+\.[\w.]+$", "of another layer", text)
    return " ".join(text.split()).replace(" ,", ",")
