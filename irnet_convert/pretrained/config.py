"""config.json: what it takes to build a saved model again, as data under a strict schema."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from irnet_convert.errors import PretrainedError
from irnet_convert.graph.plan import Plan
from irnet_convert.networks.create import RESERVED
from irnet_convert.networks.origin import Images
from irnet_convert.plain_json import load_json
from irnet_convert.pretrained.limits import (
    MAX_ARGUMENTS,
    MAX_CONFIG,
    MAX_DEPTH,
    MAX_NUMBER,
    MAX_STRING,
    MAX_VALUES,
)
from irnet_convert.recipe.block import Above0, Block, Fraction, refuse

FORMAT, FORMAT_VERSION = "irnet-convert model", 1

#: Arguments that choose weights, or where and how tensors are made.
REFUSED = RESERVED | {"device", "dtype", "scriptable", "exportable", "no_jit"}

# 2^24 elements are 64 MB of zeros: what an example input may take when one is made from it.
_MAX_EXAMPLE = 1 << 24

Short = Annotated[str, Field(max_length=512)]
Text = Annotated[str, Field(max_length=4096)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bits = Literal[1, 32]
Size = Annotated[int, Field(ge=1, le=MAX_NUMBER)]


class Architecture(Block):
    """A factory of timm or torchvision, and its arguments.

    Attributes:
        name: ``timm/NAME`` or ``torchvision/NAME``.
        kwargs: plain data; nothing that chooses weights, devices or dtypes.
    """

    name: str = Field(pattern=r"^(timm|torchvision)/[A-Za-z0-9_.-]{1,128}$")
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("kwargs")
    @classmethod
    def _modest(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if bad := sorted(REFUSED & kwargs.keys()):
            raise refuse(bad[0], "chooses weights, devices or dtypes", "arguments that shape the network")
        queue: list[Any] = [kwargs]
        seen = 0
        while queue:
            item = queue.pop()
            seen += 1
            if isinstance(item, dict):
                queue += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                queue += item
            elif isinstance(item, str) and len(item) > MAX_STRING:
                raise refuse("", f"holds a string of {len(item)} characters", f"at most {MAX_STRING}")
            elif isinstance(item, int | float) and abs(item) > MAX_NUMBER:
                raise refuse("", f"holds the number {_short(item)}", f"numbers of at most {MAX_NUMBER}")
            if seen + len(queue) > MAX_ARGUMENTS:
                raise refuse("", f"holds more than {MAX_ARGUMENTS} values", "the few arguments of a factory")
        return kwargs


class DecisionData(Block):
    """A :class:`~irnet_convert.graph.plan.Decision` as data."""

    path: Short
    kind: Short
    action: Literal["binarize", "keep"]
    weight_bits: Bits
    act_bits: Bits
    positions: Annotated[tuple[Literal["first", "last"], ...], Field(max_length=2)]
    reason: Text
    roles: Annotated[tuple[Short, ...], Field(max_length=16)] = ()
    method: Annotated[str, Field(max_length=64)] | None = None
    scale: bool = False
    aliases: Annotated[tuple[Short, ...], Field(max_length=256)] = ()


class EditData(Block):
    """An :class:`~irnet_convert.graph.plan.Edit` as data."""

    rewrite: Annotated[str, Field(max_length=64)]
    form: Annotated[str, Field(max_length=64)]
    owner: Short
    target: Short = ""
    ordinal: int = Field(default=0, ge=0, le=MAX_NUMBER)
    channels: int = Field(default=0, ge=0, le=MAX_NUMBER)


class TensorData(Block):
    """Shape and dtype of one example input."""

    shape: Annotated[tuple[Size, ...], Field(max_length=8)]
    dtype: Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]

    @model_validator(mode="after")
    def _modest(self) -> Self:
        elements = 1
        for size in self.shape:
            elements *= size
        if elements > _MAX_EXAMPLE:
            raise refuse("shape", f"has {elements:,} elements", f"at most {_MAX_EXAMPLE:,}")
        return self


class ExampleData(Block):
    """An :class:`~irnet_convert.graph.example.Example` as data."""

    inputs: Annotated[tuple[TensorData, ...], Field(max_length=16)]
    named: dict[Short, TensorData] = Field(default_factory=dict, max_length=16)
    batch: Size | None


class PlanData(Block):
    """A :class:`~irnet_convert.graph.plan.Plan` as data."""

    version: int
    model: Short
    decisions: Annotated[tuple[DecisionData, ...], Field(max_length=MAX_NUMBER)]
    edits: Annotated[tuple[EditData, ...], Field(max_length=MAX_NUMBER)] = ()
    added_keys: Annotated[tuple[Short, ...], Field(max_length=MAX_NUMBER)] = ()
    notes: Annotated[tuple[Text, ...], Field(max_length=4096)] = ()
    rewrites: Annotated[tuple[Short, ...], Field(max_length=64)] = ()
    traced: dict[Short, Annotated[list[Short], Field(max_length=64)]] = Field(default_factory=dict)
    example: ExampleData | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        paths = [d.path for d in self.decisions]
        if len(set(paths)) != len(paths):
            raise refuse("decisions", "decide about a layer twice", "one decision a layer")
        if len(set(self.edits)) != len(self.edits) or len(self.edits) > 8 * len(paths) + 8:
            raise refuse("edits", "hold an edit twice, or too many", "each edit once, a few a layer")
        return self


class LayerState(Block):
    """What binary layers keep beside their tensors: the same for all of ``layers``.

    Attributes:
        progress: share of the training that is done, in the schedule of the surrogate gradient.
        t_min: start of that schedule.
        t_max: its end.
        real_weights: in a stage of training in which weights are not binary yet.
        real_activations: likewise for activations.
        layers: their paths; null is every layer that no other entry names.
    """

    progress: Fraction
    t_min: Above0
    t_max: Above0
    real_weights: bool = False
    real_activations: bool = False
    layers: Annotated[tuple[Short, ...], Field(max_length=MAX_NUMBER)] | None = None


class FileData(Block):
    """What is known of a file beside config.json."""

    size: int = Field(ge=0)
    sha256: Hash


class Config(Block):
    """config.json.

    Attributes:
        format: of the directory.
        format_version: of what the keys mean.
        architecture: what builds the network.
        dtype: to which it is cast as a whole before its weights, of whatever dtype each, are loaded.
        plan: by which it was converted; null is a full-precision network.
        binary_layers: what they keep beside their tensors; empty where there are none.
        images: how images become inputs, or null.
        labels: names of the classes, or null.
        metrics: what was measured, ``{"top1": 95.8}``.
        source: the weights that training started from, as in ``hf-hub:timm/resnet18.a1_in1k``, or null.
        versions: package → version that wrote this.
        files: file beside this one → its size and SHA-256; packed.safetensors where there is one, and the
            weights.
    """

    format: Literal["irnet-convert model"]
    format_version: Literal[1]
    architecture: Architecture
    dtype: Literal["float64", "float32", "float16", "bfloat16"] = "float32"
    plan: PlanData | None
    binary_layers: Annotated[tuple[LayerState, ...], Field(max_length=MAX_NUMBER)] = ()
    images: Images | None = None
    labels: Annotated[tuple[Short, ...], Field(max_length=MAX_NUMBER)] | None = None
    metrics: dict[Short, float | int] = Field(default_factory=dict, max_length=256)
    source: Short | None = None
    versions: dict[Short, Short] = Field(default_factory=dict, max_length=64)
    files: dict[Short, FileData] = Field(max_length=2048)

    def the_plan(self) -> Plan | None:
        """The plan as the converter knows it.

        Raises:
            PolicyError: of another version.
        """
        if self.plan is None:
            return None
        return Plan.from_dict(self.plan.model_dump(mode="json", exclude_unset=True))

    def to_json(self) -> str:
        """The file's text; :func:`parse_config` gives an equal config back."""
        data = self.model_dump(mode="json", exclude_unset=True)
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def parse_config(data: bytes, *, where: str) -> Config:
    """A config from a file's bytes, which may come from anybody.

    Args:
        data: the file.
        where: what to call it in an error.

    Raises:
        PretrainedError: too large, no JSON, another format or version, or not what the schema says.
    """
    if len(data) > MAX_CONFIG:
        raise _refused(where, f"has {len(data):,} bytes", f"at most {MAX_CONFIG:,}")
    try:
        raw = load_json(data)
    except ValueError as error:
        raise _refused(
            where, f"is no JSON ({_short(error)})", "the JSON that save_pretrained writes"
        ) from error
    _check_tree(raw, where)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise _refused(where, f"is of format {_short(found)}", f"format {FORMAT!r}")
    if type(version := raw.get("format_version")) is not int or version != FORMAT_VERSION:
        raise PretrainedError(
            f"{where} is of format version {_short(version)}",
            expected=f"version {FORMAT_VERSION}",
            mend="install the irnet-convert that wrote it",
        )
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _of_schema(where, error) from error


_MEND = "save the model again with irnet_convert.save_pretrained, or get the repository's files anew"


def _of_schema(where: str, error: ValidationError) -> PretrainedError:
    """The first three of pydantic's errors."""
    given, expected = [], []
    for item in error.errors(include_url=False, include_input=True)[:3]:
        context = item.get("ctx", {})
        path = ".".join(
            _short(part, quote=False) for part in (*item["loc"], *filter(None, [context.get("path")]))
        )
        if item["type"] == "refused":
            given.append(f"{path} {_short(context['problem'], 200, quote=False)}")
            expected.append(context["expected"][:200])
        else:
            given.append(f"{path} is {_short(item.get('input'))}")
            expected.append(item["msg"].removeprefix("Input should be ")[:200])
    return _refused(where, ": ".join(["does not follow its schema", "; ".join(given)]), "; ".join(expected))


def _check_tree(raw: Any, where: str) -> None:
    """Refuse more values, or more levels, than any config has, and numbers that are not finite."""
    level, count = [raw], 0
    for depth in range(MAX_DEPTH + 1):
        count += len(level)
        if not level:
            return
        if count > MAX_VALUES:
            raise _refused(where, f"holds more than {MAX_VALUES:,} values", "the config of one network")
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise _refused(where, f"holds a number that is not finite, {depth} levels deep", "finite numbers")
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    raise _refused(where, f"is nested deeper than {MAX_DEPTH} levels", "the config of one network")


def _refused(where: str, problem: str, expected: str) -> PretrainedError:
    return PretrainedError(f"{where} {problem}", expected=expected, mend=_MEND)


def _short(value: object, most: int = 80, *, quote: bool = True) -> str:
    """A value in a few characters; what is large is not written out first."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str) and len(value) > most:
        value = value[: most - 3] + "..."
    text = repr(value) if quote else str(value)
    return text if len(text) <= most + 2 else text[: most - 3] + "..."
