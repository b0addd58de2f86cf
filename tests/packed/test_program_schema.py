"""Programs and networks as JSON: what is refused, and that the error says what is wrong."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program_cases import programs

from irnet_convert.errors import ArgumentError, ProgramError
from irnet_convert.packed.bits import pack_bits, row_bytes, unpack_bits
from irnet_convert.packed.blob import ALIGNMENT, check_blob, make_blob, offsets, stored, stored_bytes
from irnet_convert.packed.network import parse_network
from irnet_convert.packed.operators import operator_of
from irnet_convert.packed.shapes import infer_shapes
from irnet_convert.packed.steps import parse_program

BASE: dict[str, Any] = {
    "version": 1,
    "inputs": [{"layout": "map", "channels": 5, "rank": 4}],
    "constants": [
        {"name": "w", "dtype": "bits", "shape": [6, 5, 3, 3]},
        {"name": "s", "dtype": "f32", "shape": [6]},
        {"name": "b", "dtype": "f32", "shape": [6]},
        {"name": "fc", "dtype": "f32", "shape": [2, 6]},
    ],
    "steps": [
        {"kind": "binary_conv", "input": 0, "weight": 0, "padding": [1, 1, 1, 1],
         "post": [{"kind": "affine", "scale": 1, "shift": 2}, {"kind": "clamp", "min": -1.0}]},
        {"kind": "max_pool", "input": 1, "kernel": [2, 2], "stride": [2, 2]},
        {"kind": "global_avg_pool", "input": 2},
        {"kind": "linear", "input": 3, "weight": 3},
    ],
    "outputs": [4],
}  # fmt: skip


def changed(path: str, value: Any) -> str:
    data = json.loads(json.dumps(BASE))
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = data
    for key in way:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return json.dumps(data)


def test_the_base_is_valid() -> None:
    program = parse_program(json.dumps(BASE))
    assert infer_shapes(program, [(2, 5, 8, 9)])[-1] == (2, 2)
    assert parse_program(program.to_json()) == program


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", 2, "version 2"),
        ("version", KeyError, "lacks version"),
        ("steps", KeyError, "lacks steps"),
        ("more", 1, "unknown key 'more'"),
        ("steps.0.strid", [1, 1], "unknown key 'strid'"),
        ("steps.0.kind", "binary_convolution", "did you mean"),
        ("steps.0.kind", 7, "kind is 7"),
        ("steps.0.input", True, "True"),
        ("steps.0.input", 1, "a value read by"),
        ("steps.0.input", -1, "a value read by"),
        ("steps.0.weight", 9, "a constant read by"),
        ("steps.0.weight", 3, "'f32' of shape|is f32"),
        ("steps.0.stride", [0, 1], "stride"),
        ("steps.0.stride", [1], "list of 1"),
        ("steps.0.stride", [1.0, 1.0], "1.0"),
        ("steps.0.padding", [1, 1, 1, 2000], "padding"),
        ("steps.0.padding", "valid", "valid"),
        ("steps.0.groups", 2, "2 groups"),
        ("steps.0.groups", 0, "groups"),
        ("steps.0.dilation", [1, 99999], "dilation"),
        ("steps.0.post.0.scale", 3, "fc"),
        ("steps.0.post.1.min", "low", "'low'"),
        ("steps.0.post.1", {"kind": "clamp"}, "clamps to nothing"),
        ("steps.0.post.1", {"kind": "clamp", "min": 1.0, "max": 0.0}, "clamps to 1.0"),
        ("steps.0.post.1", {"kind": "add", "value": 0}, "adds"),
        ("steps.0.post.1", {"kind": "add", "value": 2}, "a value read by"),
        ("steps.0.post.1", {"kind": "activation", "name": "exec"}, "'exec'"),
        ("steps.1.padding", [2, 0], "padding"),
        ("steps.2.input", 3, "a value read by"),
        ("steps.3.input", 2, "reads map"),
        ("steps.3.kind", "binary_linear", "bits"),
        ("constants.0.shape", [6, 5, 3, 1 << 40], "size of w"),
        ("constants.0.shape", [6, 5, 3], "rank"),
        ("constants.0.shape", [6, 0, 3, 3], "size of w"),
        ("constants.0.dtype", "f64", "'f64'"),
        ("constants.1.name", "w", "two constants named 'w'"),
        ("constants.1.name", "", "0 characters"),
        ("constants.1.shape", [7], "s, read by post"),
        ("inputs.0.channels", 6, "on 6 channels"),
        ("inputs.0.channels", 1 << 30, "channels"),
        ("inputs.0.rank", 3, "rank"),
        ("inputs", [], "inputs"),
        ("outputs", [], "outputs"),
        ("outputs", [5], "an output"),
        ("outputs", None, "None"),
        ("constants.3", {"name": "fc", "dtype": "f32", "shape": [2, 7]}, "7 features"),
    ],
)
def test_what_is_refused(path: str, value: Any, says: str) -> None:
    with pytest.raises(ProgramError, match=says):
        parse_program(changed(path, value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("[" * 100000, "no JSON|recursion"),
        ("[]", "a list of 0"),
        ('{"version":1,"version":1}', "twice"),
        ('{"version":NaN}', "NaN"),
        ('{"version":' + "1" * 5000 + "}", "no JSON|digits"),
        ('{"version": 999999999}', "version 999999999"),
    ],
)
def test_texts_that_are_no_program(text: str, says: str) -> None:
    with pytest.raises(ProgramError, match=says):
        parse_program(text)


def test_an_unused_constant_is_refused() -> None:
    data = json.loads(json.dumps(BASE))
    data["constants"].append({"name": "spare", "dtype": "f32", "shape": [1]})
    with pytest.raises(ProgramError, match="spare"):
        parse_program(json.dumps(data))


@given(made=programs(max_steps=3), data=st.data())
@settings(deadline=None, max_examples=60)
def test_damage_to_a_program_is_refused_or_harmless(made, data: st.DataObject) -> None:
    """Whatever passes validation can have its shapes inferred, or is refused there."""
    program, shapes = made
    text = program.to_json()
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from(list('0917-,:[]{}"ae.'))) + text[place + 1 :]
    with contextlib.suppress(ProgramError, ArgumentError):
        infer_shapes(parse_program(damaged), shapes)


@given(
    out=st.integers(1, 5),
    fan_in=st.sampled_from([1, 2, 7, 8, 9, 33, 64]),
    kernel=st.sampled_from([(), (1, 1), (3, 3), (2, 5)]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_bits_return(out: int, fan_in: int, kernel: tuple[int, ...], seed: int) -> None:
    weight = torch.randn(out, fan_in, *kernel, generator=torch.Generator().manual_seed(seed))
    packed = pack_bits(weight)
    assert packed.dtype == torch.uint8
    assert packed.shape == (out, row_bytes(tuple(weight.shape)))
    assert torch.equal(unpack_bits(packed, tuple(weight.shape)), torch.where(weight > 0, 1.0, -1.0))


def test_the_order_of_bits() -> None:
    weight = torch.full((1, 3, 1, 4), -1.0)
    weight[0, 2, 0, 1] = 1  # (kH, kW, C) = (0, 1, 2): bit 1·3 + 2 = 5
    weight[0, 0, 0, 3] = 1  # (0, 3, 0): bit 9
    assert pack_bits(weight).tolist() == [[1 << 5, 1 << 1]]


def base_blob() -> tuple[Any, dict[str, torch.Tensor]]:
    program = parse_program(json.dumps(BASE))
    tensors = {
        "w": pack_bits(torch.randn(6, 5, 3, 3)), "fc": torch.randn(2, 6),
        "s": torch.randn(6), "b": torch.randn(6),
    }  # fmt: skip
    return program, tensors


def test_constants_lie_aligned_and_return() -> None:
    program, tensors = base_blob()
    blob = make_blob(program, tensors)
    places, size = offsets(program)
    assert blob.numel() == size
    assert all(p % ALIGNMENT == 0 for p in places)
    ends = [*places[1:], size]
    assert all(b - a >= stored_bytes(c) for a, b, c in zip(places, ends, program.constants, strict=True))
    for i, spec in enumerate(program.constants):
        assert torch.equal(stored(program, blob, i), tensors[spec.name])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("w", None, "w is missing"),
        ("w", torch.zeros(6, 5, dtype=torch.uint8), "shape"),
        ("w", torch.full((6, 6), 255, dtype=torch.uint8), "nonzero bits"),
        ("s", torch.zeros(6, dtype=torch.float64), "float64"),
        ("s", torch.zeros(5), "shape"),
    ],
)
def test_constants_that_do_not_fit(name: str, value: torch.Tensor | None, says: str) -> None:
    program, tensors = base_blob()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(ProgramError, match=says):
        make_blob(program, tensors)


def test_a_blob_of_another_size() -> None:
    program, tensors = base_blob()
    with pytest.raises(ProgramError, match="a blob of"):
        check_blob(program, make_blob(program, tensors)[:-1])


def test_an_integer_sum_that_could_overflow() -> None:
    data = {
        "version": 1, "inputs": [{"layout": "map", "channels": 3, "rank": 4}],
        "constants": [{"name": "w", "dtype": "i16", "shape": [1, 3, 7, 7]}],
        "steps": [{"kind": "conv", "input": 0, "weight": 0, "input_bits": 16}], "outputs": [1],
    }  # fmt: skip
    program = parse_program(json.dumps(data))
    make_blob(program, {"w": torch.full((1, 3, 7, 7), 400, dtype=torch.int16)})
    with pytest.raises(ProgramError, match="sums up to"):
        make_blob(program, {"w": torch.full((1, 3, 7, 7), 500, dtype=torch.int16)})


# -- networks

NETWORK: dict[str, Any] = {
    "version": 1, "programs": 1, "inputs": [{"name": "x", "shape": [None, 3, None, None]}],
    "constants": [{"name": "pos", "dtype": "float32", "shape": [1, 3, 1, 1]}],
    "nodes": [
        {"kind": "op", "op": "aten.add.Tensor",
         "args": [{"kind": "input", "index": 0}, {"kind": "constant", "index": 0}],
         "kwargs": [{"name": "alpha", "value": 2}]},
        {"kind": "region", "program": 0, "args": [{"kind": "node", "node": 0}]},
    ],
    "output": {"kind": "node", "node": 1, "item": 0},
}  # fmt: skip


def test_the_network_is_valid() -> None:
    network = parse_network(json.dumps(NETWORK))
    assert parse_network(network.to_json()) == network


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", 2, "version 2"),
        ("nodes.0.op", "os.system", "unknown operator"),
        ("nodes.0.op", "aten.__class__.x", "unknown operator"),
        ("nodes.0.op", "aten.add_.Tensor", "unknown operator"),
        ("nodes.0.op", "aten.rand.default", "unknown operator"),
        ("nodes.0.args.0.index", 1, "reads"),
        ("nodes.0.args.1.index", 1, "reads"),
        ("nodes.0.args.0", {"kind": "node", "node": 0}, "reads"),
        ("nodes.0.args.0", {"kind": "dict", "keys": [], "items": []}, "dict"),
        ("nodes.1.program", 1, "program 1"),
        ("nodes.1.args.0.item", -1, "item -1"),
        ("nodes.0.args.0", {"kind": "module", "name": "os"}, "module|kind"),
        ("output.node", 2, "reads"),
        ("constants.0.dtype", "object", "object"),
        ("constants.0.shape", [1 << 40], "shape"),
        ("inputs", [], "inputs"),
    ],
)
def test_networks_that_are_refused(path: str, value: Any, says: str) -> None:
    data = json.loads(json.dumps(NETWORK))
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = data
    for key in way:
        place = place[key]
    place[last] = value
    with pytest.raises(ProgramError, match=says):
        parse_network(json.dumps(data))


def test_every_operator_of_the_table_exists_and_is_harmless() -> None:
    from irnet_convert.packed.operators import _ATEN

    for name in sorted(_ATEN):
        op = operator_of(f"aten.{name}")
        assert not op._schema.is_mutable
        assert torch.Tag.nondeterministic_seeded not in op.tags or "dropout" in name or "attention" in name
