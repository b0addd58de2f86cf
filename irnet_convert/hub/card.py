"""A repository's card: what ``README.md`` says to people, above it what it says to the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LIBRARY = "irnet-convert"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measured value, for the card's metadata.

    Args:
        dataset: a name on the Hub, or another.
        split: of the data set.
        metric: ``"accuracy"``, ...
        value: in the metric's own unit.
        label: of the metric, for people.
        revision: of the data set.
    """

    dataset: str
    split: str | None
    metric: str
    value: float
    label: str
    revision: str | None = None


def card(
    text: str,
    *,
    name: str,
    tags: Iterable[str] = (),
    datasets: Iterable[str] = (),
    base_model: str | None = None,
    license: str | None = None,
    measured: Iterable[Measured] = (),
) -> bytes:
    """A card as ``upload`` takes it.

    Args:
        text: Markdown.
        name: of the model or the recipe, in the metadata's list of results.
        tags: beside the library's own.
        datasets: names on the Hub.
        base_model: a name on the Hub.
        license: as the Hub writes it.
        measured: becomes the metadata's ``model-index``.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=each.dataset,
            dataset_name=each.dataset,
            dataset_split=each.split,
            dataset_revision=each.revision,
            metric_type=each.metric,
            metric_value=each.value,
            metric_name=each.label,
        )
        for each in measured
    ]
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="image-classification",
        tags=[LIBRARY, *tags],
        datasets=list(datasets) or None,
        base_model=base_model,
        license=license,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n".encode()
