"""The program of one fused region: plain data, strict JSON, versioned.

Values are numbered: value i is input i while i < len(inputs), then comes one value per step, in step order.
A step reads only values before its own, so every program ends. Values are real float32 tensors in one of
two layouts:

- ``map``: (N, C, H, W), channels at dimension 1;
- ``rows``: (..., C), channels last, of a fixed rank (2 for (N, C)).

N, H and W (and the leading dimensions of rows) are free until a call; channels are fixed. There are no
values made of bits: a binary step takes the sign of its input itself (+1 where x >= 0, −1 elsewhere, so −1
for NaN), and it is for an implementation to have the producer write bits.

Every step first computes its accumulator and then applies ``post`` in order. ``reference.py`` defines each
of them in plain PyTorch; ``check.py`` validates; ``shapes.py`` infers shapes; ``blob.py`` places constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from irnet_convert.packed.strict import read_json, write_json

#: Version of the program's meaning. A reader refuses every other.
VERSION = 1

Layout = Literal["map", "rows"]
PadMode = Literal["zeros", "reflect", "replicate", "circular"]
DType = Literal["bits", "f32", "f16", "bf16", "i8", "i16"]
Pair = tuple[int, int]
#: Amounts of ``F.pad``: left, right, top, bottom. "same": TensorFlow's SAME, by the size in the call.
Padding = tuple[int, int, int, int] | Literal["same"]


@dataclass(frozen=True, kw_only=True)
class ValueSpec:
    """What is known of a value before a call.

    Attributes:
        layout: "map" or "rows".
        channels: its channels.
        rank: its number of dimensions; 4 for a map.
    """

    layout: Layout
    channels: int
    rank: int


@dataclass(frozen=True, kw_only=True)
class ConstSpec:
    """One constant.

    Attributes:
        name: the module path that it came from, such as "layer1.0.conv1.weight"; unique in a program.
        dtype: "bits" for ±1 weights as ``bits.py`` packs them, else the element type in storage.
        shape: the logical shape, (O, I, kH, kW), (O, I) or (C,).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]


# -- post: what follows an accumulator ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y·scale[c] + shift[c], one fused multiply-add: rounded to float32 once. Constants: float32, (C,)."""

    kind: Literal["affine"] = "affine"
    scale: int
    shift: int


@dataclass(frozen=True, kw_only=True)
class Add:
    """y + another value of exactly the same shape and layout."""

    kind: Literal["add"] = "add"
    value: int


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """min(max(y, min), max); either may be absent. NaN stays NaN."""

    kind: Literal["clamp"] = "clamp"
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Prelu:
    """y where y > 0, y·slope elsewhere. Constant: float32, (C,) or (1,)."""

    kind: Literal["prelu"] = "prelu"
    slope: int


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function without constants, as torch.nn.functional defines it in float32."""

    kind: Literal["activation"] = "activation"
    name: Literal["hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]


Post = Affine | Add | Clamp | Prelu | Activation


# -- steps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BinaryConv:
    """sign(x), then padding (zeros contribute exactly 0), then convolution with ±1 weights.

    The accumulator is an exact integer. Weight: "bits", (O, C/groups, kH, kW). Map to map.
    """

    kind: Literal["binary_conv"] = "binary_conv"
    input: int
    weight: int
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    pad_mode: PadMode = "zeros"
    dilation: Pair = (1, 1)
    groups: int = 1
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Convolution of real inputs. Map to map.

    Weight: (O, C/groups, kH, kW), f32, or f16 / bf16 read as float32, or "bits" (±1: a W1A32 layer), or
    i8 / i16 together with ``input_bits``.

    With ``input_bits`` = b each image x[n] is quantised by itself: s = max|x[n]| / (2^(b−1) − 1), rounded
    to float32, q = rint(x / s) (0 where s is 0; no farther from 0 than what s was divided by), and the
    accumulator is float32(Σ q·w)·s, Σ an exact integer. An image with a NaN or an infinity in it has
    accumulators that are all NaN.
    """

    kind: Literal["conv"] = "conv"
    input: int
    weight: int
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    pad_mode: PadMode = "zeros"
    dilation: Pair = (1, 1)
    groups: int = 1
    input_bits: int | None = None
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BinaryLinear:
    """sign(x), then a linear layer with ±1 weights; an integer. Weight: "bits", (O, I). Rows to rows."""

    kind: Literal["binary_linear"] = "binary_linear"
    input: int
    weight: int
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer of real inputs. Weight: f32, f16, bf16 or "bits" (±1), (O, I). Rows to rows."""

    kind: Literal["linear"] = "linear"
    input: int
    weight: int
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """As F.max_pool2d (padding counts as −inf, NaN wins). Map to map."""

    kind: Literal["max_pool"] = "max_pool"
    input: int
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AvgPool:
    """As F.avg_pool2d. Map to map."""

    kind: Literal["avg_pool"] = "avg_pool"
    input: int
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GlobalAvgPool:
    """Mean over H and W: (N, C, H, W) → rows (N, C), or a map (N, C, 1, 1) with ``keep_dims``."""

    kind: Literal["global_avg_pool"] = "global_avg_pool"
    input: int
    keep_dims: bool = False
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Flatten:
    """(N, C, H, W) → rows (N, ``features``), C slowest; a call with another C·H·W is refused."""

    kind: Literal["flatten"] = "flatten"
    input: int
    features: int
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Subsample:
    """x[:, :, ::stride[0], ::stride[1]] with zero channels before and after. Map to map."""

    kind: Literal["subsample"] = "subsample"
    input: int
    stride: Pair
    before: int = 0
    after: int = 0
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Concatenation along channels of values that all have this layout, and one rank."""

    kind: Literal["concat"] = "concat"
    inputs: tuple[int, ...]
    layout: Layout = "map"
    post: tuple[Post, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """Nothing but ``post``."""

    kind: Literal["pointwise"] = "pointwise"
    input: int
    post: tuple[Post, ...] = ()


Step = (
    BinaryConv
    | Conv
    | BinaryLinear
    | Linear
    | MaxPool
    | AvgPool
    | GlobalAvgPool
    | Flatten
    | Subsample
    | Concat
    | Pointwise
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """One fused region; see the module's docstring.

    Attributes:
        version: :data:`VERSION`.
        inputs: the values that a call gives.
        constants: the table of constants; their bytes are in a blob (``blob.py``) or a file.
        steps: in execution order.
        outputs: numbers of the values that a call returns.
    """

    version: int = VERSION
    inputs: tuple[ValueSpec, ...]
    constants: tuple[ConstSpec, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def to_json(self) -> str:
        """Compact JSON; :func:`parse_program` reads it."""
        return write_json(self)


def parse_program(text: str) -> Program:
    """A validated program from its JSON.

    Raises:
        ProgramError: malformed, of another version, or contradicting itself.
    """
    from irnet_convert.packed.check import check_program, check_version

    check_version(text)
    program = read_json(Program, text, what="program")
    check_program(program)
    return program


def inputs_of(step: Step) -> tuple[int, ...]:
    """The values that a step reads, those of its ``post`` left out."""
    return step.inputs if isinstance(step, Concat) else (step.input,)


def reads_of(step: Step) -> tuple[int, ...]:
    """All values that a step reads."""
    return inputs_of(step) + tuple(p.value for p in step.post if isinstance(p, Add))


def constants_of(step: Step) -> tuple[int, ...]:
    """All constants that a step reads."""
    found = [step.weight] if isinstance(step, BinaryConv | Conv | BinaryLinear | Linear) else []
    for post in step.post:
        if isinstance(post, Affine):
            found += [post.scale, post.shift]
        elif isinstance(post, Prelu):
            found.append(post.slope)
    return tuple(found)
