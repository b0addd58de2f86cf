"""The sealed file: what is written comes back, and every kind of damage is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.errors import PackedFileError
from irnet_convert.packed import container
from irnet_convert.packed.container import RULES, read_sealed, write_sealed

TENSORS = {
    "bits": torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    "scale": torch.tensor([1.5, -0.0, float("inf"), float("nan")]),
    "half": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).half(),
    "none": torch.zeros(0, 4),
    "scalar": torch.tensor(7),
}
TEXTS = {"network": '{"a":1}', "name": "π"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "net.safetensors", TENSORS, TEXTS)
    return tmp_path / "net.safetensors"


def header_of(data: bytes) -> tuple[str, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end].decode(), data[end:]


def with_header(header: str | bytes, body: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + body


def edited(data: bytes, change: Callable[[dict], None]) -> bytes:
    header, body = header_of(data)
    table = json.loads(header)
    change(table)
    return with_header(json.dumps(table), body)


def test_what_is_written_comes_back_bit_for_bit(file: Path) -> None:
    tensors, texts = read_sealed(file)
    assert texts == TEXTS
    assert tensors.keys() == TENSORS.keys()
    for name, want in TENSORS.items():
        assert tensors[name].dtype == want.dtype
        assert tensors[name].shape == want.shape
        # As bytes: NaN equals NaN, and −0 does not equal 0.
        assert tensors[name].numpy().tobytes() == want.numpy().tobytes()


def test_other_safetensors_readers_see_the_tensors_and_the_rules(file: Path) -> None:
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata()["bits"] == RULES["bits"]
        assert torch.equal(opened.get_tensor("bits"), TENSORS["bits"])


def test_the_same_network_is_the_same_file(file: Path, tmp_path: Path) -> None:
    write_sealed(tmp_path / "again", dict(reversed(TENSORS.items())), dict(reversed(TEXTS.items())))
    assert read_sealed(tmp_path / "again")[0].keys() == TENSORS.keys()
    assert container._seal(TENSORS, TEXTS) == container._seal(dict(reversed(TENSORS.items())), TEXTS)


def _rule(key: str, value: str | None) -> Callable[[bytes], bytes]:
    def change(table: dict) -> None:
        if value is None:
            del table["__metadata__"][key]
        else:
            table["__metadata__"][key] = value

    return lambda data: edited(data, change)


def _tensor(**fields: object) -> Callable[[bytes], bytes]:
    return lambda data: edited(data, lambda table: table["bits"].update(fields))


def _text(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        header, body = header_of(data)
        assert old in header
        return with_header(header.replace(old, new, 1), body)

    return change


def _flip(place: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        raw = bytearray(data)
        raw[place] ^= 1
        return bytes(raw)

    return change


#: Name → what is done to a good file's bytes, and what the message must say.
HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "it has 0 bytes"),
    "seven bytes": (lambda d: d[:7], "it has 7 bytes"),
    "cut in the header": (lambda d: d[:40], "header should have"),
    "cut in the tensors": (lambda d: d[:-1], "cannot be read"),
    "one byte more": (lambda d: d + b"\0", "cannot be read"),
    "no safetensors": (lambda d: b"PK\x03\x04" + bytes(200), "header"),
    "a pickle": (lambda d: b"\x80\x04\x95" + bytes(200), "header should have"),
    "header of 2^63 bytes": (lambda d: (1 << 63).to_bytes(8, "little") + d[8:], "header should have"),
    "header longer than is read": (lambda d: (1 << 27).to_bytes(8, "little") + bytes(1 << 27), "header"),
    "header of no JSON": (lambda d: with_header("{" * 20, b""), "no JSON"),
    "header of bad UTF-8": (lambda d: with_header(b'{"\xff\xfe": 1}', b""), "no JSON"),
    "header that is a list": (lambda d: with_header("[1]", b""), "no metadata"),
    "deep nesting": (lambda d: with_header("[" * 200_000 + "]" * 200_000, b""), "no JSON"),
    "NaN in the header": (_text('"shape":[3,4]', '"shape":[NaN,4]'), "NaN is no number"),
    "a huge number": (_text('"shape":[3,4]', '"shape":[' + "9" * 5000 + ",4]"), "no JSON|cannot be read"),
    "a key twice": (_text('{"__metadata__":{', '{"__metadata__":{"sign":"x",'), "the key 'sign' twice"),
    "a tensor twice": (
        lambda d: with_header(header_of(d)[0].rstrip()[:-1] + ',"bits":' + json.dumps(
            json.loads(header_of(d)[0])["scale"]) + "}", header_of(d)[1]),
        "twice in one object",
    ),
    "weights without metadata": (
        lambda d: safetensors.torch.save({"a": torch.zeros(2)}), "no metadata",
    ),
    "metadata that is a list": (lambda d: edited(d, lambda t: t.update(__metadata__=[])), "no metadata"),
    "metadata of numbers": (
        lambda d: edited(d, lambda t: t["__metadata__"].update(network=1)), "no metadata",
    ),
    "another format": (_rule("format", "onnx"), "its format is 'onnx'"),
    "no format": (_rule("format", None), "its format is None"),
    "version 2": (_rule("format_version", "2"), "format version '2'"),
    "version of words": (_rule("format_version", "1.0"), "format version '1.0'"),
    "another bit order": (_rule("bits", "highest bit first"), "rule 'bits' is 'highest bit first'"),
    "another sign": (_rule("sign", "0 at 0"), "rule 'sign' is '0 at 0'"),
    "no padding rule": (_rule("zero_padding", None), "rule 'zero_padding' is None"),
    "another name of the model": (_rule("name", "other"), "altered"),
    "text added": (_rule("more", "text"), "altered"),
    "text removed": (_rule("name", None), "altered"),
    "another checksum": (_rule("sha256", "0" * 64), "altered"),
    "no checksum": (_rule("sha256", None), "altered"),
    "a bit of the last byte": (_flip(-1), "altered"),
    "another shape of the same size": (_tensor(shape=[4, 3]), "altered"),
    "another dtype of the same size": (_tensor(dtype="I8"), "altered"),
    "an unknown dtype": (_tensor(dtype="I1"), "cannot be read"),
    "a dtype of half bytes": (_tensor(dtype="F4"), "cannot be read|altered"),
    "a larger shape": (_tensor(shape=[3, 5]), "cannot be read"),
    "a shape beyond memory": (_tensor(shape=[1 << 40, 1 << 40]), "cannot be read"),
    "a shape that overflows to the right size": (_tensor(shape=[1 << 63, 2]), "cannot be read"),
    "a negative size": (_tensor(shape=[-3, -4]), "cannot be read"),
    "a size that is no number": (_tensor(shape=["3", 4]), "cannot be read"),
    "offsets beyond the end": (_tensor(data_offsets=[0, 1 << 40]), "cannot be read"),
    "offsets backwards": (_tensor(data_offsets=[12, 0]), "cannot be read"),
    "offsets that overlap": (_tensor(data_offsets=[4, 16]), "cannot be read"),
    "an unknown key of a tensor": (_tensor(device="cuda"), "its tensor 'bits' has the keys"),
    "a tensor renamed": (_text('"bits":{', '"bots":{'), "altered"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(name: str, file: Path) -> None:
    change, says = HOSTILE[name]
    before = file.read_bytes()
    file.write_bytes(change(before))
    assert file.read_bytes() != before
    with pytest.raises(PackedFileError, match=says) as caught:
        read_sealed(file)
    assert caught.value.expected
    assert caught.value.mend
    assert len(str(caught.value)) < 2000


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_mutation_gets_through(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.safetensors"
    if not good.exists():
        write_sealed(good, TENSORS, TEXTS)
    raw = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["set", "insert", "delete", "copy"]))
        if how == "set":
            raw[place] = data.draw(st.integers(0, 255))
        elif how == "insert":
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif how == "delete":
            del raw[place : place + data.draw(st.integers(1, 9))]
        else:
            other = data.draw(st.integers(0, len(raw) - 1))
            raw[place : place + 8] = raw[other : other + 8]
        if not raw:
            break
    bad = folder / "bad.safetensors"
    bad.write_bytes(bytes(raw))
    try:
        tensors, texts = read_sealed(bad)
    except PackedFileError:
        return
    # What still reads must say the same: white space in the header, or a byte set to what it was.
    assert texts == TEXTS
    assert {k: v.numpy().tobytes() for k, v in tensors.items()} == {
        k: v.numpy().tobytes() for k, v in TENSORS.items()
    }


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match="it cannot be read: No such file"):
        read_sealed(tmp_path / "nowhere.safetensors")
    with pytest.raises(PackedFileError, match="it is a directory"):
        read_sealed(tmp_path)
    with pytest.raises(PackedFileError, match="cannot be written"):
        write_sealed(tmp_path / "none" / "file", TENSORS, TEXTS)


def test_a_failing_write_leaves_the_old_file_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PackedFileError, match="No space left"):
        write_sealed(file, TENSORS, {**TEXTS, "more": "text"})
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_file_is_on_the_disk_before_it_has_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append("rename"), replace(a, b))[1])
    write_sealed(file, TENSORS, TEXTS)
    assert order[:2] == ["fsync", "rename"]


def test_a_directory_is_none(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match="it is a directory") as error:
        read_sealed(tmp_path)
    assert "irnet-convert pack" in error.value.mend
    (tmp_path / "packed.safetensors").write_bytes(b"")
    with pytest.raises(PackedFileError) as error:
        read_sealed(tmp_path)
    assert str(tmp_path / "packed.safetensors") in error.value.mend
