"""What commands share: options, and how names on the command line become objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from irnet_convert.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from irnet_convert.policy import Policy

out = Console()

ModelName = Annotated[
    str,
    typer.Argument(
        help="timm/NAME, torchvision/NAME, a run's directory, or a saved model (hf://org/name, ./DIRECTORY).",
        metavar="MODEL",
    ),
]
PolicyName = Annotated[
    str | None,
    typer.Option("--policy", help="Name of a preset (irnet, irnet_w1a32, interior) or a YAML file."),
]
Rewrites = Annotated[
    str | None,
    typer.Option(
        "--rewrites",
        help="Comma-separated: activation, shortcut (the default), rprelu, rsign, head_norm; '' for none.",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input-size", help="Shape of the example input, as in 1x3x32x32. Default: the model's own."
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        help="A bundled recipe's name, a YAML file, or a name on the Hugging Face Hub: org/name[@revision], "
        "hf://org/name[@revision]/FILE.",
        metavar="RECIPE",
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Take what lies on the Hub from the cache, as HF_HUB_OFFLINE=1 does."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Recipe keys to set, as in epochs=2 optimizer.lr=1e-3.", metavar="[KEY=VALUE]..."),
]


def rewrites_named(rewrites: str | None) -> list[str] | None:
    """What ``--rewrites`` names; None: the default ones."""
    return None if rewrites is None else [name for name in rewrites.split(",") if name]


def show(item: Any, as_json: bool) -> None:
    """Print what the commands found: as a table of rich's, or as JSON."""
    if as_json:
        print(json.dumps(item.to_dict(), indent=2))
    else:
        out.print(item)


#: Endings of files that are no models: packed networks, recipes, policies, exports.
_FILES = (".safetensors", ".yaml", ".yml", ".json", ".onnx", ".xml")


def model_named(name: str, kwargs: str) -> nn.Module:
    """The model that the command line names: a run's, or a library's with fresh weights."""
    from irnet_convert.networks.create import model_spec_of
    from irnet_convert.pretrained.named import model_of

    if (Path(name) / "recipe.yaml").is_file():
        from irnet_convert.train import load

        return load(name)
    if not name.startswith("hf:") and (Path(name).suffix in _FILES or name.startswith("runs/")):
        raise ArgumentError(
            f"{name}, which is no file and no run's directory"
            if not Path(name).exists()
            else f"{name}, which is neither a model nor a run's directory",
            expected="timm/NAME, torchvision/NAME, a run's directory, or a saved model's as ./DIRECTORY",
            mend="correct the path",
        )
    spec = model_spec_of(name)
    found = _json_object(kwargs)
    if found and spec.is_saved:
        raise ModelError(
            f"--model-kwargs of the saved model {name}", expected="none: it has its own arguments",
            mend="leave them out",
        )  # fmt: skip
    return model_of(spec.model_copy(update={"kwargs": found}))


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise ModelError(
            f"--model-kwargs is {text!r}", expected="a JSON object",
            mend="""write it as '{"num_classes": 10}', quoted for the shell""",
        )  # fmt: skip
    return found


def read_policy(given: str | None) -> Policy | None:
    """The policy that ``--policy`` names: a preset or a YAML file."""
    from irnet_convert.policy import PRESETS, Policy

    if given is None:
        return None
    return Policy.preset(given) if given in PRESETS or not Path(given).suffix else Policy.load(given)


def example_sized(size: str | None) -> Any:
    """Zeros of the shape that ``--input-size`` says, or None where it says nothing."""
    if size is None:
        return None
    import torch

    parts = size.lower().replace(",", "x").split("x")
    if not all(p.isdigit() and int(p) > 0 for p in parts) or len(parts) < 2:
        raise ModelError(
            f"--input-size is {size!r}", expected="positive numbers joined by x, batch first",
            mend="write it as 1x3x224x224",
        )  # fmt: skip
    return torch.zeros(*map(int, parts))
