"""Validation of a program: numbers in range, constants of the right kind and shape, values before their use.

What passes here is safe to infer shapes for and to plan; sizes that only a call knows are checked by
``shapes.py``.
"""

from __future__ import annotations

import functools
import math
import re

from irnet_convert.errors import ProgramError
from irnet_convert.packed.steps import (
    VERSION,
    Activation,
    Add,
    Affine,
    AvgPool,
    BinaryConv,
    BinaryLinear,
    Clamp,
    Concat,
    ConstSpec,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Pointwise,
    Post,
    Prelu,
    Program,
    Step,
    Subsample,
    ValueSpec,
    constants_of,
    reads_of,
)
from irnet_convert.packed.strict import malformed

#: Bounds far above any network and far below what overflows.
MAX_STEPS = MAX_CONSTANTS = 1 << 16
MAX_CHANNELS = 1 << 22
MAX_GEOMETRY = 1 << 10
MAX_VALUES = 1 << 8
MAX_CONSTANT_BYTES = 1 << 34
#: Longest sum of ±1 that float32 still holds exactly.
MAX_FAN_IN = 1 << 24
#: The largest float32.
MAX_FLOAT = 3.4028234663852886e38
REAL = ("f32", "f16", "bf16")
_SHORT = {"binary_conv": 4, "conv": 4, "binary_linear": 2, "linear": 2}


def check_version(text: str) -> None:
    """Refuse another version before anything else is read, so that the error says what is the matter.

    Raises:
        ProgramError: the text names a version that is not :data:`VERSION`.
    """
    found = re.match(r'\s*\{\s*"version"\s*:\s*(\d{1,9})\s*[,}]', text)
    if found and int(found[1]) != VERSION:
        raise ProgramError(
            f"a packed program of version {int(found[1])}",
            expected=f"version {VERSION}",
            mend="install the irnet-convert that wrote it, or pack the model again with this one",
        )


@functools.lru_cache(maxsize=256)
def specs_of(program: Program) -> tuple[ValueSpec, ...]:
    """What is known of every value of a program, inputs first; validated once."""
    return check_program(program)


def maps_among_outputs(program: Program) -> list[bool]:
    """Which outputs are maps, (N, C, H, W); the others are rows, (..., C)."""
    specs = specs_of(program)
    return [specs[i].layout == "map" for i in program.outputs]


def check_program(program: Program) -> tuple[ValueSpec, ...]:
    """Validate a program.

    Returns:
        What is known of every value, inputs first.

    Raises:
        ProgramError: anything out of range or contradictory, with its place.
    """
    if program.version != VERSION:
        raise malformed(f"program.version is {program.version}", f"{VERSION}")
    for name, most in (("steps", MAX_STEPS), ("constants", MAX_CONSTANTS), ("inputs", MAX_VALUES)):
        _within(len(getattr(program, name)), name != "constants", most, f"the number of {name}")
    _within(len(program.outputs), 1, MAX_VALUES, "the number of outputs")
    _check_constants(program)
    values = list(program.inputs)
    for i, spec in enumerate(values):
        _within(spec.channels, 1, MAX_CHANNELS, f"inputs[{i}].channels")
        _within(
            spec.rank, 4 if spec.layout == "map" else 1, 4 if spec.layout == "map" else 8, f"inputs[{i}].rank"
        )
    for i, step in enumerate(program.steps):
        where = f"steps[{i}] ({step.kind})"
        for value in reads_of(step):
            _within(value, 0, len(values) - 1, f"a value read by {where}")
        for constant in constants_of(step):
            _within(constant, 0, len(program.constants) - 1, f"a constant read by {where}")
        values.append(_check_step(step, values, program, where))
    for value in program.outputs:
        _within(value, 0, len(values) - 1, "an output")
    unused = set(range(len(program.constants))) - {c for s in program.steps for c in constants_of(s)}
    if unused:
        raise malformed(
            f"no step reads the constant {program.constants[min(unused)].name!r}", "only used ones"
        )
    return tuple(values)


def _within(number: int, least: int, most: int, what: str) -> None:
    if not least <= number <= most:
        raise malformed(f"{what} is {number}", f"{least} to {most}")


def _check_constants(program: Program) -> None:
    names = [c.name for c in program.constants]
    if len(set(names)) != len(names):
        raise malformed(
            f"two constants named {next(n for n in names if names.count(n) > 1)!r}", "unique names"
        )
    total = 0
    for spec in program.constants:
        _within(len(spec.shape), 1, 4, f"the rank of {spec.name}")
        for size in spec.shape:
            _within(size, 1, MAX_CHANNELS, f"a size of {spec.name}")
        _within(math.prod(spec.shape[1:]), 1, MAX_FAN_IN, f"the fan-in of {spec.name}")
        total += math.prod(spec.shape)
    _within(total, 0, MAX_CONSTANT_BYTES, "the number of elements of all constants")


def _check_step(step: Step, values: list[ValueSpec], program: Program, where: str) -> ValueSpec:
    if isinstance(step, Concat):
        out = _concat(step, values, where)
    else:
        out = _accumulator(step, values[step.input], program, where)
    _within(out.channels, 1, MAX_CHANNELS, f"the channels of {where}")
    _within(len(step.post), 0, MAX_VALUES, f"the length of post of {where}")
    for post in step.post:
        _check_post(post, out, values, program, where)
    return out


def _concat(step: Concat, values: list[ValueSpec], where: str) -> ValueSpec:
    _within(len(step.inputs), 1, MAX_VALUES, f"the number of inputs of {where}")
    specs = [values[i] for i in step.inputs]
    first = specs[0]
    if any((s.layout, s.rank) != (step.layout, first.rank) for s in specs):
        raise malformed(f"{where} joins values of different layouts or ranks", f"{step.layout}, one rank")
    return ValueSpec(layout=first.layout, rank=first.rank, channels=sum(s.channels for s in specs))


def _accumulator(step: Step, x: ValueSpec, program: Program, where: str) -> ValueSpec:
    """The value that a step with one input makes, after its geometry is checked."""
    layout = {BinaryLinear: "rows", Linear: "rows", Pointwise: x.layout}.get(type(step), "map")
    if x.layout != layout:
        raise malformed(f"{where} reads {x.layout}", layout)
    if isinstance(step, BinaryConv | Conv):
        return ValueSpec(layout="map", rank=4, channels=_check_conv(step, x, program, where))
    if isinstance(step, BinaryLinear | Linear):
        out, fan_in = _weight(step, program, where).shape
        if fan_in != x.channels:
            raise malformed(
                f"{where} has a weight for {fan_in} features and an input of {x.channels}", "equal"
            )
        return ValueSpec(layout="rows", rank=x.rank, channels=out)
    if isinstance(step, MaxPool | AvgPool):
        _check_pool(step, where)
    elif isinstance(step, GlobalAvgPool) and not step.keep_dims:
        return ValueSpec(layout="rows", rank=2, channels=x.channels)
    elif isinstance(step, Flatten):
        _within(step.features, 1, MAX_CHANNELS, f"the features of {where}")
        if step.features % x.channels:
            raise malformed(f"{where}: {step.features} features of {x.channels} channels", "a multiple")
        return ValueSpec(layout="rows", rank=2, channels=step.features)
    elif isinstance(step, Subsample):
        _geometry(step.stride, 1, f"a stride of {where}")
        for amount in (step.before, step.after):
            _within(amount, 0, MAX_CHANNELS, f"the padding of {where}")
        return ValueSpec(layout="map", rank=4, channels=step.before + x.channels + step.after)
    return x


def _geometry(numbers: tuple[int, ...], least: int, what: str) -> None:
    for number in numbers:
        _within(number, least, MAX_GEOMETRY, what)


def _check_pool(step: MaxPool | AvgPool, where: str) -> None:
    _geometry(step.kernel, 1, f"a kernel size of {where}")
    _geometry(step.stride, 1, f"a stride of {where}")
    for size, amount in zip(step.kernel, step.padding, strict=True):
        _within(amount, 0, size // 2, f"a padding of {where}")
    if isinstance(step, MaxPool):
        _geometry(step.dilation, 1, f"a dilation of {where}")


def _weight(step: BinaryConv | Conv | BinaryLinear | Linear, program: Program, where: str) -> ConstSpec:
    """The weight of a step, of the right rank and dtype."""
    spec = program.constants[step.weight]
    quantised = isinstance(step, Conv) and step.input_bits is not None
    if isinstance(step, BinaryConv | BinaryLinear):
        allowed: tuple[str, ...] = ("bits",)
    else:
        allowed = ("i8", "i16") if quantised else ("bits", *REAL)
    if spec.dtype not in allowed or len(spec.shape) != _SHORT[step.kind]:
        raise malformed(
            f"the weight {spec.name} of {where} is {spec.dtype} of shape {list(spec.shape)}",
            f"{' or '.join(allowed)} of rank {_SHORT[step.kind]}",
        )
    return spec


def _check_conv(step: BinaryConv | Conv, x: ValueSpec, program: Program, where: str) -> int:
    out, per_group, *kernel = _weight(step, program, where).shape
    _within(step.groups, 1, MAX_CHANNELS, f"the groups of {where}")
    _geometry((*kernel, *step.stride, *step.dilation), 1, f"a kernel size, stride or dilation of {where}")
    if per_group * step.groups != x.channels or out % step.groups:
        raise malformed(
            f"{where}: weight {out}×{per_group} in {step.groups} groups on {x.channels} channels",
            "input channels = groups × the weight's, output channels a multiple of groups",
        )
    if step.padding != "same":
        _geometry(step.padding, 0, f"a padding of {where}")
    elif step.pad_mode != "zeros":
        raise malformed(f"{where} has SAME padding with {step.pad_mode}", "zeros")
    if isinstance(step, Conv) and step.input_bits is not None:
        _within(step.input_bits, 2, 16, f"input_bits of {where}")
    return out


def _check_post(post: Post, out: ValueSpec, values: list[ValueSpec], program: Program, where: str) -> None:
    if isinstance(post, Affine):
        for index in (post.scale, post.shift):
            _vector(program.constants[index], (out.channels,), where)
    elif isinstance(post, Prelu):
        _vector(program.constants[post.slope], (out.channels, 1), where)
    elif isinstance(post, Add):
        if values[post.value] != out:
            raise malformed(
                f"{where} adds {values[post.value]} to {out}", "the same layout, channels and rank"
            )
    elif isinstance(post, Clamp):
        if post.min is None and post.max is None:
            raise malformed(f"{where} clamps to nothing", "min, max or both")
        if post.min is not None and post.max is not None and post.min > post.max:
            raise malformed(f"{where} clamps to {post.min} … {post.max}", "min <= max")
        if any(v is not None and abs(v) > MAX_FLOAT for v in (post.min, post.max)):
            raise malformed(f"{where} clamps to {post.min} … {post.max}", "numbers that float32 holds")
    else:
        assert isinstance(post, Activation)


def _vector(spec: ConstSpec, lengths: tuple[int, ...], where: str) -> None:
    if spec.dtype != "f32" or len(spec.shape) != 1 or spec.shape[0] not in lengths:
        raise malformed(
            f"{spec.name}, read by post of {where}, is {spec.dtype} of shape {list(spec.shape)}",
            f"f32 of shape ({' or '.join(map(str, dict.fromkeys(lengths)))},)",
        )
