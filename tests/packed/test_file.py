"""Packed networks as files: what is saved comes back, and nothing else gets in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from file_cases import Parts, mixed_network, mutated, saved_parts, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_cases import packed_of, small_resnet
from program_cases import Made, case_of, programs

from irnet_convert import __version__
from irnet_convert.errors import ArgumentError, IrnetError, PackedFileError
from irnet_convert.packed import load_packed, save_packed
from irnet_convert.packed.model import PackedModel

SOURCE = {"model": "ResNet", "input_size": [3, 17, 15], "mean": [0.5, 0.25, 0.125], "notes": ["a", "b"]}


def same(one: PackedModel, other: PackedModel) -> None:
    assert one.network == other.network
    assert one.programs == other.programs
    assert [b.numpy().tobytes() for b in one.blobs] == [b.numpy().tobytes() for b in other.blobs]
    assert one.constants.keys() == other.constants.keys()
    for name, tensor in one.constants.items():
        assert tensor.dtype == other.constants[name].dtype
        assert torch.equal(tensor, other.constants[name])
    assert one.source == other.source


@given(made=programs())
@settings(deadline=None, max_examples=60)
def test_round_trip_is_bit_for_bit(made: Made, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    case = case_of(*made)
    packed = packed_of(case)
    save_packed(packed, path)
    loaded = load_packed(path)
    same(packed, loaded)
    for one, other in zip(packed(*case.inputs), loaded(*case.inputs), strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_parts_that_stay_in_pytorch_come_back(tmp_path: Path) -> None:
    packed = mixed_network(SOURCE)
    save_packed(packed, tmp_path / "net")
    loaded = load_packed(tmp_path / "net")
    same(packed, loaded)
    x = small_resnet().inputs[0]
    found, want = loaded(x), packed(x)
    assert torch.equal(found["logits"], want["logits"])
    assert torch.equal(found["both"][1], want["both"][1])
    assert loaded.constants["head.weight"].dtype == torch.float16


def test_the_same_network_saved_twice_is_the_same_file(tmp_path: Path) -> None:
    packed = packed_of(small_resnet())
    save_packed(packed, tmp_path / "a")
    save_packed(load_packed(tmp_path / "a"), tmp_path / "b")
    assert saved_parts(tmp_path / "a").texts == saved_parts(tmp_path / "b").texts


def test_the_file_says_who_wrote_it_and_costs_a_bit_a_weight(tmp_path: Path) -> None:
    case = small_resnet()
    save_packed(packed_of(case), tmp_path / "net")
    parts = saved_parts(tmp_path / "net")
    assert parts.texts["irnet_convert_version"] == __version__
    assert json.loads(parts.texts["source"]) == {"name": "case"}
    assert parts.tensors["region0.block.conv1.weight"].shape == (16, 16 * 9 // 8)
    assert parts.tensors["region0.fc.weight"].dtype == torch.float32


def test_loading_needs_neither_timm_nor_the_training_code(tmp_path: Path) -> None:
    save_packed(mixed_network(SOURCE), tmp_path / "net")
    code = (
        "import sys, torch, irnet_convert\n"
        f"packed = irnet_convert.load_packed({str(tmp_path / 'net')!r})\n"
        "print(packed(torch.zeros(1, 3, 17, 15))['logits'].shape)\n"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in ('timm', 'torchvision', 'accelerate',\n"
        "    'datasets', 'pydantic', 'transformers', 'onnx', 'openvino')))\n"
        "print(*sorted(m.split('.')[1] for m in sys.modules if m.startswith('irnet_convert.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shape, foreign, own = done.stdout.splitlines()
    assert shape == "torch.Size([1, 10])"
    assert foreign == ""
    assert set(own.split()) <= {"packed", "errors", "binary", "durable", "native", "plain_json"}


def test_refusals_of_save(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="save_packed of a Linear"):
        save_packed(torch.nn.Linear(2, 2), tmp_path / "net")  # type: ignore[arg-type]
    with pytest.raises(PackedFileError, match="cannot be written"):
        save_packed(packed_of(small_resnet()), tmp_path / "none" / "net")
    with pytest.raises(PackedFileError, match=r"the packed file .*net is refused: it cannot be read"):
        load_packed(tmp_path / "net")


# -- hostile files with a right seal: everything that can be wrong behind it

Edit = Callable[[Parts], None]


def _json(key: str, change: Callable[[Any], None]) -> Edit:
    def edit(parts: Parts) -> None:
        data = json.loads(parts.texts[key])
        change(data)
        parts.texts[key] = json.dumps(data)

    return edit


def _program(change: Callable[[Any], None]) -> Edit:
    return _json("program0", change)


def _network(change: Callable[[Any], None]) -> Edit:
    return _json("network", change)


def _step(number: int, **fields: Any) -> Edit:
    return _program(lambda p: p["steps"][number].update(fields))


def _const(number: int, **fields: Any) -> Edit:
    return _program(lambda p: p["constants"][number].update(fields))


def _op(**fields: Any) -> Edit:
    def change(network: Any) -> None:
        next(n for n in network["nodes"] if n["kind"] == "op").update(fields)

    return _network(change)


def _text(key: str, old: str, new: str) -> Edit:
    def edit(parts: Parts) -> None:
        assert old in parts.texts[key]
        parts.texts[key] = parts.texts[key].replace(old, new, 1)

    return edit


def _tensor(name: str, value: torch.Tensor | None) -> Edit:
    def edit(parts: Parts) -> None:
        assert name in parts.tensors or value is not None
        parts.tensors.pop(name, None)
        if value is not None:
            parts.tensors[name] = value

    return edit


def _keyword(name: str) -> Edit:
    return _op(kwargs=[{"name": name, "value": 1}])


_EVIL = "p=__import__('pathlib').Path('/nonexistent/x').touch(), n"
_DEEP = '{"version":1,"programs":1,"inputs":[],"constants":[],"nodes":[],"output":' + "[" * 100_000
#: Name → what is changed in the parts of a good file, and what the message must say.
HOSTILE: dict[str, tuple[Edit, str]] = {
    # metadata
    "no network": (lambda p: p.texts.pop("network"), "no 'network'"),
    "no program": (lambda p: p.texts.pop("program0"), "no 'program0'"),
    "no source": (lambda p: p.texts.pop("source"), "no 'source'"),
    "a program too many": (lambda p: p.texts.update(program1=p.texts["program0"]), "unknown key 'program1'"),
    "an unknown key": (lambda p: p.texts.update(code="import os"), "unknown key 'code'"),
    "an unknown key of the source": (_json("source", lambda s: s.update(hook="x")), "unknown key 'hook'"),
    # JSON itself
    "network of no JSON": (lambda p: p.texts.update(network="{"), "no JSON"),
    "network that is a list": (lambda p: p.texts.update(network="[]"), "an object"),
    "empty text": (lambda p: p.texts.update(program0=""), "no JSON"),
    "deep nesting": (lambda p: p.texts.update(network=_DEEP), "no JSON"),
    "deep lists": (
        _network(lambda n: n.update(output=json.loads('{"kind":"list","items":[' * 40 + "1" + "]}" * 40))),
        "lists in lists",
    ),
    "a key twice": (_text("program0", '"outputs"', '"outputs":[1],"outputs"'), "'outputs' twice"),
    "NaN": (_text("program0", '"min":-1.0', '"min":NaN'), "NaN is no number"),
    "Infinity": (_text("program0", '"max":1.0', '"max":Infinity'), "Infinity is no number"),
    "a float that overflows": (_text("program0", '"max":1.0', '"max":1e999'), "max"),
    "an integer of 10,000 digits": (
        _text("program0", '"channels":3', '"channels":' + "9" * 10_000), "no JSON|channels",
    ),
    "a bool for a number": (_step(2, groups=True), "groups is True"),
    "a float for an integer": (_step(2, groups=1.0), "groups is 1.0"),
    "a string for a number": (_step(2, groups="1"), "groups is '1'"),
    "null for a number": (_step(2, groups=None), "groups is None"),
    "an unknown key of a step": (_step(2, hook="x"), "unknown key 'hook'"),
    "a missing key of a step": (_program(lambda p: p["steps"][2].pop("weight")), "lacks weight"),
    # versions
    "program of version 2": (_program(lambda p: p.update(version=2)), "version 2"),
    "network of version 2": (_network(lambda n: n.update(version=2)), "version"),
    "network of version 0": (_network(lambda n: n.update(version=0)), "version"),
    # programs
    "an unknown step": (_step(2, kind="binary_conv3d"), "binary_conv3d"),
    "an unknown post": (_program(lambda p: p["steps"][2]["post"][0].update(kind="call")), "call"),
    "a value from the future": (_step(2, input=5), "a value read by steps"),
    "a value of a negative number": (_step(2, input=-1), "a value read by steps"),
    "itself as input": (_step(2, input=3), "a value read by steps"),
    "a constant beyond the table": (_step(2, weight=99), "a constant read by steps"),
    "an output beyond the values": (_program(lambda p: p.update(outputs=[99])), "an output"),
    "no outputs": (_program(lambda p: p.update(outputs=[])), "outputs"),
    "no steps": (_program(lambda p: p.update(steps=[])), "steps"),
    "stride 0": (_step(2, stride=[0, 1]), "stride"),
    "a huge stride": (_step(2, stride=[1 << 40, 1]), "stride"),
    "negative padding": (_step(2, padding=[-1, 1, 1, 1]), "padding"),
    "absurd padding": (_step(2, padding=[1 << 31, 1, 1, 1]), "padding"),
    "padding by an unknown name": (_step(2, padding="SAME"), "padding"),
    "an unknown pad mode": (_step(2, pad_mode="wrap"), "pad_mode"),
    "dilation beyond bounds": (_step(2, dilation=[1, 1 << 20]), "dilation"),
    "groups that do not divide": (_step(2, groups=3), "groups"),
    "groups of 2^62": (_step(2, groups=1 << 62), "groups"),
    "a pooling window of 0": (_step(1, kernel=[0, 3]), "kernel"),
    "a clamp upside down": (_program(lambda p: p["steps"][1]["post"][0].update(min=2.0)), "clamps"),
    "a subsampling of 2^40 channels": (_step(3, before=1 << 40), "subsample"),
    "flatten of a negative size": (
        _program(lambda p: p["steps"].__setitem__(5, {"kind": "flatten", "input": 5, "features": -4})),
        "features",
    ),
    "real weights for a binary layer": (_const(1, dtype="f32"), "weight"),
    "bits for a scale": (_const(4, dtype="bits"), "conv1|affine"),
    "an unknown dtype": (_const(0, dtype="f64"), "f64"),
    "int8 weights without input_bits": (_const(0, dtype="i8"), "weight"),
    "input_bits for float weights": (_step(0, input_bits=8), "weight|input_bits"),
    "a constant of 2^60 rows": (_const(1, shape=[1 << 60, 16, 3, 3]), "block.conv1.weight"),
    "a shape of negative sizes": (_const(1, shape=[-16, -16, 3, 3]), "block.conv1.weight"),
    "a shape with a zero": (_const(1, shape=[16, 16, 0, 3]), "block.conv1.weight"),
    "a fan-in beyond float32": (
        _const(1, shape=[16, 1 << 22, 1 << 9, 1 << 9]), "block.conv1.weight|channels",
    ),
    "a rank of 9": (_const(1, shape=[1] * 9), "block.conv1.weight"),
    "two constants of one name": (_const(1, name="conv1.weight"), "conv1.weight"),
    "an empty name": (_const(1, name=""), "name"),
    "more input channels than the weight": (
        _program(lambda p: p["inputs"][0].update(channels=5)), "channels",
    ),
    "an input of rank 1000": (_program(lambda p: p["inputs"][0].update(rank=1000)), "rank"),
    "a constant that nobody reads": (
        _program(lambda p: p["constants"].append({"name": "more", "dtype": "f32", "shape": [1]})),
        "more|constants",
    ),
    # networks
    "an unknown operator": (_op(op="aten.frobnicate.default"), "unknown operator"),
    "an operator that reads files": (_op(op="aten.from_file.default"), "unknown operator"),
    "an operator that writes": (_op(op="aten.add_.Tensor"), "unknown operator"),
    "an operator of another library": (_op(op="prim.eval.default"), "unknown operator"),
    "a function of Python": (_op(op="builtins.eval"), "unknown operator"),
    "an import path": (_op(op="os.system"), "unknown operator"),
    "an operator with dots": (_op(op="aten.__class__.__init__"), "unknown operator"),
    "code as a keyword": (_keyword(_EVIL), "unknown keyword"),
    "a keyword that the operator lacks": (_keyword("nothing"), "unknown keyword"),
    "a keyword twice": (
        _op(kwargs=[{"name": "dim", "value": 1}, {"name": "dim", "value": 1}]), "keyword",
    ),
    "a node from the future": (
        _network(lambda n: n["nodes"][0]["args"].append({"kind": "node", "node": 7})), "reads",
    ),
    "an input beyond the table": (
        _network(lambda n: n["nodes"][0]["args"].__setitem__(0, {"kind": "input", "index": 3})), "reads",
    ),
    "a constant beyond the network's": (
        _network(lambda n: n.update(output={"kind": "constant", "index": 9})), "reads",
    ),
    "a program beyond the file's": (
        _network(lambda n: next(x for x in n["nodes"] if x["kind"] == "region").update(program=4)), "program",
    ),
    "no programs": (_network(lambda n: n.update(programs=0)), "program"),
    "2^40 programs": (_network(lambda n: n.update(programs=1 << 40)), "program"),
    "no inputs": (_network(lambda n: n.update(inputs=[])), "input"),
    "an unknown kind of argument": (_network(lambda n: n.update(output={"kind": "object"})), "kind"),
    "a dtype of torch's by another name": (
        _network(lambda n: n.update(output={"kind": "dtype", "name": "nn"})), "name",
    ),
    "a constant of 2^60 elements": (
        _network(lambda n: n["constants"][0].update(shape=[1 << 31, 1 << 31])), "absurd|head",
    ),
    # tensors
    "a tensor missing": (_tensor("region0.block.conv1.weight", None), "block.conv1.weight is missing"),
    "a constant of PyTorch missing": (_tensor("torch.head.weight", None), "torch.head.weight is missing"),
    "a tensor too many": (_tensor("region0.more", torch.zeros(2)), "region0.more"),
    "bits of another shape": (
        _tensor("region0.block.conv1.weight", torch.zeros(18, 16, dtype=torch.uint8)), r"shape \[18, 16\]",
    ),
    "bits too few": (
        _tensor("region0.block.conv1.weight", torch.zeros(16, 17, dtype=torch.uint8)), r"shape \[16, 17\]",
    ),
    "bits of another dtype": (
        _tensor("region0.block.conv1.weight", torch.zeros(16, 18, dtype=torch.int8)), "int8",
    ),
    "floats of another width": (_tensor("region0.affine0.scale", torch.zeros(16).double()), "float64"),
    "halves for floats": (_tensor("region0.affine0.scale", torch.zeros(16).half()), "float16"),
    "bits behind the end of a row": (
        _tensor("region0.odd.weight", torch.full((4, 2), 255, dtype=torch.uint8)), "behind the end of a row",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("good") / "net"
    save_packed(mixed_network(SOURCE), path)
    return saved_parts(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(name: str, good: Parts, tmp_path: Path) -> None:
    edit, says = HOSTILE[name]
    parts = good.copy()
    edit(parts)
    assert parts != good
    write_parts(parts, tmp_path / "net")
    with pytest.raises(PackedFileError, match=says) as caught:
        load_packed(tmp_path / "net")
    assert str(tmp_path / "net") in caught.value.given
    assert len(str(caught.value)) < 2000


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3))
@settings(deadline=None, max_examples=150)
def test_sealed_mutations_are_refused_or_harmless(
    seed: int, count: int, good: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    write_parts(mutated(good, seed, count), path)
    try:
        packed = load_packed(path)
    except PackedFileError:
        return
    try:
        packed(torch.zeros(1, 3, 17, 15))
    except (IrnetError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        return  # operators of PyTorch on arguments that they refuse
