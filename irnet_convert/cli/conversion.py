"""Commands that look at a conversion: plan, summarize."""

from __future__ import annotations

from typing import Annotated

import typer

from irnet_convert.cli.options import (
    AsJson,
    InputSize,
    ModelName,
    PolicyName,
    Rewrites,
    example_sized,
    model_named,
    out,
    read_policy,
    rewrites_named,
    show,
)


def plan(
    model: ModelName,
    policy: PolicyName = None,
    rewrites: Rewrites = None,
    input_size: InputSize = None,
    kwargs: Annotated[
        str, typer.Option("--model-kwargs", help='Arguments of the model as JSON: {"num_classes": 10}.')
    ] = "{}",
    as_json: AsJson = False,
) -> None:
    """Show what converting MODEL would do to each of its layers, and why. Nothing is changed.

    Example: `irnet-convert plan timm/resnet18`
    """
    import irnet_convert

    found = irnet_convert.plan(
        model_named(model, kwargs), read_policy(policy), example_input=example_sized(input_size),
        rewrites=rewrites_named(rewrites),
    )  # fmt: skip
    show(found, as_json)
    if not as_json:
        for note in found.notes:
            out.print(f"note: {note}", markup=False)


def summarize(
    model: ModelName,
    policy: PolicyName = None,
    input_size: InputSize = None,
    kwargs: Annotated[
        str, typer.Option("--model-kwargs", help='Arguments of the model as JSON: {"num_classes": 10}.')
    ] = "{}",
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="Count the model as it is, without converting it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count parameters, memory, FLOPs and binary operations of MODEL once it is converted.

    Examples: `irnet-convert summarize timm/resnet18`, `irnet-convert summarize runs/digits`
    """
    import irnet_convert

    built = model_named(model, kwargs)
    if not full_precision and not irnet_convert.is_binarized(built):
        built = irnet_convert.binarize(
            built, read_policy(policy), example_input=example_sized(input_size), inplace=True
        )
    show(irnet_convert.summarize(built, example_sized(input_size)), as_json)
