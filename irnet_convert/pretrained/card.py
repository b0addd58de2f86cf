"""The model card: what the network is, what it reaches, what it weighs, and how to use it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from irnet_convert import hub
from irnet_convert.errors import IrnetError
from irnet_convert.hub import Measured
from irnet_convert.pretrained.config import Config
from irnet_convert.pretrained.stored import PACKED
from irnet_convert.report import Summary, summarize

_WORDS = {
    "top1": "top-1 accuracy, %",
    "top5": "top-5 accuracy, %",
    "loss": "cross-entropy, nats",
    "count": "images",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says beside the config.

    Attributes:
        name: what to call ``from_pretrained`` with.
        not_packed: why there is no packed file; None where there is one.
        dataset: on which the metrics were measured.
        license: of the weights.
    """

    name: str
    not_packed: str | None = None
    dataset: str | None = None
    license: str | None = None


def card_text(model: nn.Module, config: Config, card: Card) -> str:
    """The text of README.md, with the Hub's metadata in front.

    Args:
        model: the network.
        config: as it will lie beside the card.
        card: what else there is to say.
    """
    parts = [
        f"# {_line(card.name)}",
        _what(model, config),
        _use(config, card),
        _metrics(config, card),
        _sizes(model),
        _origin(config),
    ]
    base = (config.source or "").removeprefix("hf-hub:")
    return hub.card(
        "\n\n".join(part for part in parts if part),
        name=card.name,
        tags=["binary-neural-network", "ir-net"] if config.plan else [],
        datasets=[card.dataset] if card.dataset and hub.is_on_hub(card.dataset) else [],
        base_model=base if base != config.source and base else None,
        license=card.license,
        measured=_measured(config, card),
    ).decode()


def _measured(config: Config, card: Card) -> list[Measured]:
    top1 = config.metrics.get("top1")
    if top1 is None or not card.dataset:
        return []
    return [Measured(dataset=card.dataset, split=None, metric="accuracy", value=top1, label=_WORDS["top1"])]


def _what(model: nn.Module, config: Config) -> str:
    kind = f"`{config.architecture.name}`" + (
        f" with `{config.architecture.kwargs}`" if config.architecture.kwargs else ""
    )
    if config.plan is None:
        return f"A full-precision {kind}, saved by irnet-convert {config.versions.get('irnet-convert', '')}."
    binary = sum(d.action == "binarize" for d in config.plan.decisions)
    return (
        f"{kind} as a binary network: {binary} of its {len(config.plan.decisions)} layers have 1-bit "
        "weights, by [IR-Net](https://arxiv.org/abs/1909.10788). Converted by irnet-convert "
        f"{config.versions.get('irnet-convert', '')}; `config.json` holds the whole plan, with a reason for "
        "each layer."
    )


def _use(config: Config, card: Card) -> str:
    shape = "" if config.images is None else "  # " + _images(config)
    lines = [
        "## Use", "", "```python", "import irnet_convert",
        f"model = irnet_convert.from_pretrained({_line(card.name)!r})", f"outputs = model(images){shape}",
        "```",
    ]  # fmt: skip
    if card.not_packed is None:
        lines += [
            "", f"`{PACKED}` is the same network for inference, one bit a weight: "
            f"`irnet_convert.load_packed(\"{PACKED}\")`.",
        ]  # fmt: skip
    elif config.plan is not None:
        lines += ["", f"There is no packed file: {_line(card.not_packed)}."]
    return "\n".join(lines)


def _images(config: Config) -> str:
    images = config.images
    assert images is not None
    size = ", ".join(map(str, images.input_size))
    return f"(N, {size}), in [0, 1], less {_numbers(images.mean)}, divided by {_numbers(images.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _metrics(config: Config, card: Card) -> str:
    if not config.metrics:
        return ""
    where = f"On {_line(card.dataset)}:\n\n" if card.dataset else ""
    rows = [
        f"| {_cell(_WORDS.get(name, name))} | {_number(value)} |" for name, value in config.metrics.items()
    ]
    return "\n".join(["## Metrics", "", f"{where}| metric | value |", "|---|---|", *rows])


def _sizes(model: nn.Module) -> str:
    """The totals of the size table; nothing where the model cannot be run on an example that is known."""
    try:
        found: Summary = summarize(model)
    except IrnetError:
        return ""
    mib = 8 * 1024**2
    rows = [
        ("parameters", f"{found.params:,}", f"{found.params:,}"),
        ("of them binary", "0", f"{found.binary_params:,}"),
        (
            "memory of the parameters, MiB",
            f"{found.memory_bits_fp32 / mib:.2f}",
            f"{found.memory_bits / mib:.2f}",
        ),
        ("multiply-adds in floating point, M", f"{found.flops_fp32 / 1e6:.2f}", f"{found.flops / 1e6:.2f}"),
        ("binary multiply-adds, M", "0", f"{found.bops / 1e6:.2f}"),
        ("OPs = FLOPs + BOPs/64, M", f"{found.flops_fp32 / 1e6:.2f}", f"{found.ops / 1e6:.2f}"),
    ]
    lines = [f"| {what} | {before} | {after} |" for what, before, after in rows]
    return "\n".join(
        ["## Size", "", "| for one input | full precision | this network |", "|---|---|---|", *lines]
    )


def _origin(config: Config) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in config.versions.items())
    source = f"Its training started from the weights `{_line(config.source)}`. " if config.source else ""
    return f"## Origin\n\n{source}Saved with {versions}."


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _line(text: str | None) -> str:
    """Text of somebody's as one line that ends no code span and opens no tag."""
    plain = " ".join((text or "").split())
    return "".join("'" if c in "`<>" else c for c in plain if c.isprintable())


def _cell(text: str) -> str:
    return _line(text).replace("|", "/")
