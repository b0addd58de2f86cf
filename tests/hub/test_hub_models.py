"""Models pushed to and pulled from a Hub on loopback, by the real client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from torch import nn

import irnet_convert
from irnet_convert import from_pretrained, push_to_hub
from irnet_convert.errors import HubError, IrnetError, PretrainedError
from irnet_convert.networks import create_model
from irnet_convert.recipe import ModelSpec

SPEC = ModelSpec(name="timm/test_resnet", kwargs={"num_classes": 4})
IMAGES = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


@pytest.fixture(scope="module")
def student() -> nn.Module:
    torch.manual_seed(0)
    return irnet_convert.binarize(create_model(SPEC), example_input=IMAGES).eval()


@pytest.fixture
def writer(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def files_of(hub: FakeHub) -> dict[str, bytes]:
    return hub.repos["model", "org/student"].commits[-1][1]


def test_pushed_and_pulled_also_at_an_older_revision(writer: FakeHub, student: nn.Module) -> None:
    first = push_to_hub(student, "org/student", metrics={"top1": 50.0}, labels=list("abcd"))
    assert first.repo_id == "org/student"
    assert set(files_of(writer)) >= {"config.json", "model.safetensors", "packed.safetensors", "README.md"}
    assert b"irnet_convert.from_pretrained('org/student')" in files_of(writer)["README.md"]
    before = student(IMAGES)
    with torch.no_grad():
        student.get_parameter("fc.bias").add_(1.0)
    second = push_to_hub(student, "org/student", message="Trained on", max_shard_size="100KB", packed=False)
    assert second.commit != first.commit
    assert torch.equal(from_pretrained("org/student")(IMAGES), student(IMAGES))
    pinned = f"org/student@{first.commit}"
    for name, revision in [("org/student", first.commit), (pinned, None), (f"hf://{pinned}", None)]:
        assert torch.equal(from_pretrained(name, revision=revision)(IMAGES), before)
    with torch.no_grad():
        student.get_parameter("fc.bias").sub_(1.0)


def test_only_what_belongs_to_the_model_is_fetched(writer: FakeHub, student: nn.Module) -> None:
    push_to_hub(student, "org/student")
    writer.requests.clear()
    from_pretrained("org/student")
    assert not writer.asked("packed.safetensors")
    assert not writer.asked("README.md")
    assert writer.asked("model.safetensors")


def test_offline_from_the_cache(writer: FakeHub, student: nn.Module) -> None:
    pushed = push_to_hub(student, "org/student")
    with pytest.raises(HubError, match="offline"):
        from_pretrained("org/student", revision=pushed.commit, offline=True)
    from_pretrained("org/student")
    writer.fails("503", "", None)
    assert torch.equal(from_pretrained("org/student", offline=True)(IMAGES), student(IMAGES))


def altered(hub: FakeHub, name: str, change) -> None:
    files = dict(files_of(hub))
    hub.repos["model", "org/student"].commit({name: change(files[name])})


def flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def renamed(before: bytes, after: bytes):
    return lambda data: data.replace(before, after)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", flipped, "has the SHA-256"),
        ("model.safetensors", lambda data: data[:-8], "has .* bytes"),
        ("model.safetensors", lambda data: data + b"12345678", "has .* bytes"),
        ("config.json", lambda data: data[: len(data) // 2], "is no JSON"),
        ("config.json", renamed(b'"format_version": 1', b'"format_version": 2'), "version 2"),
        ("config.json", renamed(b"timm/test_resnet", b"timm/resnet34"), "is refused"),
        ("config.json", renamed(b'"num_classes": 4', b'"num_classes": 5'), r"fc.weight \(4, "),
        ("config.json", renamed(b"model.safetensors", b"other.safetensors"), "names the file"),
    ],
)  # fmt: skip
def test_damaged_and_altered_files_are_refused(
    writer: FakeHub, student: nn.Module, name: str, change, said: str
) -> None:
    pushed = push_to_hub(student, "org/student", packed=False)
    altered(writer, name, change)
    with pytest.raises(IrnetError, match=said) as error:
        from_pretrained("org/student")
    assert "org/student@" in str(error.value)
    assert torch.equal(from_pretrained("org/student", revision=pushed.commit)(IMAGES), student(IMAGES))


def test_repositories_that_hold_no_model(writer: FakeHub, student: nn.Module) -> None:
    writer.repo("org/empty").commit({"README.md": b"nothing"})
    writer.repo("org/timm").commit(
        {"config.json": b'{"architecture": "resnet18"}', "pytorch_model.bin": b"\x80\x04."}
    )
    writer.repo("org/data", "dataset").commit({"config.json": b"{}"})
    for name, kind, said in [
        ("org/empty", HubError, "no file"),
        ("org/timm", PretrainedError, "is of format None"),
        ("org/data", HubError, "no such repository"),
        ("org/nothing", HubError, "no such repository"),
        ("org/student/config.json", PretrainedError, "no directory|no name"),
        ("hf://org/empty/config.json", HubError, "at most one revision"),
        ("hf://datasets/org/data", HubError, "a dataset repository"),
        ("resnet18-binry", PretrainedError, "no directory"),
        ("s3://org/name", HubError, "no name"),
    ]:
        with pytest.raises(IrnetError, match=said) as error:
            from_pretrained(name)
        assert isinstance(error.value, kind | HubError), name
    assert not writer.asked("pytorch_model.bin")


def test_a_push_that_cannot_be(hub: FakeHub, student: nn.Module) -> None:
    with pytest.raises(HubError, match="org/name alone"):
        push_to_hub(student, "org/student@main")
    with pytest.raises(PretrainedError, match="which architecture"):
        push_to_hub(nn.Linear(2, 2), "org/student")
    with pytest.raises(HubError, match=r"401|token"):
        push_to_hub(student, "org/student", packed=False)  # nobody is logged in
    assert ("model", "org/student") not in hub.repos


def test_a_connection_that_breaks_in_the_middle_leaves_nothing_half(
    writer: FakeHub, student: nn.Module
) -> None:
    push_to_hub(student, "org/student", packed=False)
    writer.fails("drop", "GET .*(model.safetensors|cdn)", None)
    with pytest.raises(HubError):
        from_pretrained("org/student")
    writer.faults.clear()
    assert torch.equal(from_pretrained("org/student")(IMAGES), student(IMAGES))


def test_a_directory_of_that_name_comes_first(
    writer: FakeHub, student: nn.Module, tmp_path: Path, monkeypatch
) -> None:
    push_to_hub(student, "org/student")
    other = create_model(SPEC).eval()
    monkeypatch.chdir(tmp_path)
    irnet_convert.save_pretrained(other, "org/student")
    assert torch.equal(from_pretrained("org/student")(IMAGES), other(IMAGES))
    assert torch.equal(from_pretrained("hf://org/student")(IMAGES), student(IMAGES))
    config = json.loads((tmp_path / "org" / "student" / "config.json").read_text())
    assert config["plan"] is None
