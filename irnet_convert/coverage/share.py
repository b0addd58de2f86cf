"""The share of a model's interior multiply-adds that is binarized, and why the rest is not."""

from __future__ import annotations

import re
from collections import Counter
from math import prod

from irnet_convert.graph.decide import decide
from irnet_convert.graph.ops import WEIGHTED
from irnet_convert.graph.record import Node, Record
from irnet_convert.graph.rewrites.projection import weight_read
from irnet_convert.graph.survey import Survey
from irnet_convert.policy import Policy
from irnet_convert.report import multiply_adds

#: Why products with parameters of other modules than layers are not binarized.
UNHELD = "a weight that no layer holds"


def interior_share(survey: Survey) -> tuple[int, int, dict[str, int]]:
    """Multiply-adds of the interior under the policy "interior", for one sample.

    The interior is every layer that is neither first nor last, and every product with a parameter that no
    layer holds; the policy lifts the rules on downsample, depthwise and squeeze-excite layers.

    Args:
        survey: of the unconverted model.

    Returns:
        All of them, those that are binarized, and reason → those that are not.
    """
    rec = survey.records[0]
    macs, counted = multiply_adds(survey.model, rec)
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
    unheld = sum(
        _products(rec, node)
        for node in rec.nodes
        if node.index not in counted
        and node.op in WEIGHTED
        and any(weight_read(rec, value) for value in node.inputs)
    )
    if unheld >= batch:
        rest[UNHELD] = unheld // batch
        total += rest[UNHELD]
    return total, binary, dict(rest)


def _products(rec: Record, node: Node) -> int:
    """Multiply-adds of an operator that applies a weight."""
    shapes = [rec.shapes[value] for value in node.inputs]
    out = prod(rec.shapes[node.outputs[0]])
    if node.op == "einsum":
        return out * _summed_over(str(node.scalars[0]).replace(" ", ""), shapes)
    if node.op.startswith("conv"):
        return prod(shapes[0] if "transpose" in node.op else (out,)) * prod(shapes[1][1:])
    return out * shapes[1 if node.op in ("addmm", "baddbmm") else 0][-1]


def _summed_over(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """How many products make one element of an einsum's result."""
    terms, arrow, kept = equation.partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=True):
        letters = term.rpartition(".")[2]  # what an ellipsis stands for is never summed over
        sizes.update(zip(letters, shape[len(shape) - len(letters) :], strict=True))
    return prod(n for c, n in sizes.items() if (c not in kept if arrow else terms.count(c) > 1))


def kind_of(reason: str) -> str:
    """A decision's reason without the names of layers and values in it, so that reasons can be summed."""
    text = re.sub(r"\([^()]*\bin [^()]*\)", "", reason)  # "(relu in layer1.0)"
    text = re.sub(r"\b(read by|also read by) \S+ in .*?(?= while|$)", r"\1 another module", text)
    text = re.sub(r"\bof [\w.]+\.[\w.]+$", "of another layer", text)
    return " ".join(text.split()).replace(" ,", ",")
