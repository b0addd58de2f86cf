"""``pack``, ``bench`` and ``eval --packed`` through the real entry point, on a finished run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import irnet_convert
from irnet_convert import cli
from irnet_convert.errors import ArgumentError, IrnetError, PackedFileError, UnknownNameError
from irnet_convert.networks import create_model
from irnet_convert.packed import engine
from irnet_convert.recipe import Recipe

runner = CliRunner()
QUICK = ("--seconds", "0.01", "--no-fresh")


def run(*arguments: str | Path) -> str:
    done = runner.invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves behind, with statistics as if it had been trained."""
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe.load("digits", ["model.checkpoint=null", "data.eval_limit=128", "eval_batch_size=64"])
    torch.manual_seed(0)
    example = torch.randn(2, *recipe.transforms.input_size)
    model = irnet_convert.binarize(create_model(recipe.model), example_input=example)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(64, *recipe.transforms.input_size))
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    labels = [f"digit {i}" for i in range(10)]
    (folder / "environment.json").write_text(json.dumps({"data": {"labels": labels}}))
    (folder / "plan.json").write_text(json.dumps(irnet_convert.plan_of(model).to_dict()))
    return folder


@pytest.fixture(scope="module")
def packed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "digits.safetensors"
    text = run("pack", finished, path)
    assert "nothing stays in PyTorch" in text
    assert "0.05" in text
    return path


def test_packed_file_knows_its_source(packed: Path) -> None:
    source = irnet_convert.load_packed(packed).source
    assert source["name"] == "timm/cifar_resnet20"
    assert source["input_size"] == [3, 16, 16]
    assert source["mean"] == source["std"] == [0.5, 0.5, 0.5]
    assert source["labels"] == [f"digit {i}" for i in range(10)]


def test_packed_file_is_the_run_s_network(finished: Path, packed: Path) -> None:
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            irnet_convert.load_packed(packed)(x), irnet_convert.load(finished)(x), rtol=0, atol=1e-4
        )


def test_eval_compares(finished: Path, packed: Path) -> None:
    text = run("eval", finished, "--packed", packed)
    assert "the same prediction on 100.00 %" in text
    assert "of this run?" not in text
    found = json.loads(run("eval", finished, "--packed", packed, "data.eval_limit=32", "--json"))
    assert found["count"] == 32
    assert found["top1"] == found["eager_top1"]
    assert found["close"] >= 90
    # Another network's file is seen to be one.
    other = irnet_convert.load_packed(packed)
    other.blobs[0][:64] ^= 255
    irnet_convert.save_packed(other, packed.with_name("other.safetensors"))
    found = json.loads(run("eval", finished, "--packed", packed.with_name("other.safetensors"), "--json"))
    assert found["close"] < 10
    assert "other.safetensors of this run?" in run(
        "eval", finished, "--packed", packed.with_name("other.safetensors")
    )


def test_eval_knows_that_a_stem_on_integers_turns_signs(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("irnet_convert.cli.training._ALIKE", 101.0)
    file = tmp_path / "int8.safetensors"
    run("pack", finished, file, "--stem-bits", "8")
    text = run("eval", finished, "--packed", file)
    assert "Its first layer is on 8-bit integers" in text
    assert "of this run?" not in text


def test_halves_are_smaller(finished: Path, packed: Path, tmp_path: Path) -> None:
    run("pack", finished, tmp_path / "half.safetensors", "--real-dtype", "float16")
    assert (tmp_path / "half.safetensors").stat().st_size < packed.stat().st_size - 1000


def test_the_stem_on_integers(finished: Path, tmp_path: Path) -> None:
    run("pack", finished, tmp_path / "net.safetensors", "--stem-bits", "8")
    program = irnet_convert.load_packed(tmp_path / "net.safetensors").programs[0]
    assert [c.dtype for c in program.constants if c.name.startswith("conv1.weight")] == ["i8", "f32", "f32"]


def test_other_engines_by_the_name_of_the_file(finished: Path, tmp_path: Path) -> None:
    run("pack", finished, tmp_path / "net.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    run("pack", finished, tmp_path / "net.xml")
    assert "BinaryConvolution" in (tmp_path / "net.xml").read_text()


def test_bench_prints_a_table_and_looks_from_fresh_processes(packed: Path) -> None:
    text = run("bench", packed, "--seconds", "0.01", "--chart", "--layers")
    for part in ("torch: PyTorch eager", "█", "layer3.2.conv2", "load to first result", "MB (torch"):
        assert part in text
    assert engine.isa_in_use() in text


def test_bench_json_and_ratios(packed: Path) -> None:
    done = json.loads(run("bench", packed, *QUICK, "--batch", "2", "--json"))
    ours, torch_s = done["timings"]
    assert (ours["name"], torch_s["name"]) == ("packed", "torch")
    assert ours["ratio"] == 1
    assert torch_s["ratio"] == pytest.approx(torch_s["median"] / ours["median"])
    assert ours["fastest"] <= ours["median"] <= ours["slowest"]
    assert done["batch"] == 2
    assert done["warnings"] == []


def test_bench_of_models_and_runs(finished: Path) -> None:
    size = ["--input-size", "1x3x16x16"]
    for name in ("timm/cifar_resnet20", finished):
        done = json.loads(run("bench", name, *QUICK, *size, "--json"))
        assert "1 fused region(s)" in done["facts"]["kernels"]
        assert done["facts"]["input"] == "1x3x16x16"


def test_bench_of_a_run_has_images_of_its_size(finished: Path) -> None:
    """The architecture's own is 32×32."""
    text = run("bench", finished, *QUICK, "--batch", "2")
    assert "input: 2x3x16x16" in text


def test_bench_by_rewrites() -> None:
    more = [*QUICK, "--input-size", "1x3x16x16", "--against", "", "--layers"]
    text = run("bench", "timm/cifar_resnet20", *more, "--rewrites", "rprelu,rsign")
    assert "rewrites: rprelu, rsign" in text
    assert "pointwise" in text  # thresholds that are not 0
    assert "rewrites" not in run("bench", "timm/cifar_resnet20", *more)


def test_bench_against_other_engines(packed: Path) -> None:
    names = "onnxruntime,onnxruntime-int8,openvino,openvino-fp32,openvino-int8"
    done = json.loads(run("bench", packed, *QUICK, "--against", names, "--json"))
    assert [t["name"] for t in done["timings"]] == ["packed", *names.split(",")]


def test_bench_of_a_file_that_was_packed_in_python(finished: Path, tmp_path: Path) -> None:
    """It knows no name by which its model could be built."""
    path = tmp_path / "net.safetensors"
    packed = irnet_convert.pack(irnet_convert.load(finished).eval())
    packed.source["architecture"] = "resnet18"  # as timm's own have
    irnet_convert.save_packed(packed, path)
    done = json.loads(run("bench", path, *QUICK, "--json"))
    assert [t["name"] for t in done["timings"]] == ["packed"]
    assert "timm/NAME" in done["warnings"][0]
    with pytest.raises(ArgumentError, match="--against torch") as error:
        run("bench", path, *QUICK, "--against", "torch")
    assert "timm/resnet18, or the file" in error.value.mend


def test_bench_warns_of_the_reference(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine.ISA_VARIABLE, "reference")
    text = run("bench", packed, *QUICK, "--against", "")
    assert "warning: the reference in PyTorch ran" in text


@pytest.mark.parametrize("command", ["pack", "bench"])
def test_help_teaches(command: str) -> None:
    text = run(command, "--help")
    assert "Example" in text
    assert ".safetensors" in text


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["pack", "RUN", "net.pt"], ArgumentError, "net.safetensors"),
        (["pack", "RUN", "net.safetensors", "--real-dtype", "float61"], UnknownNameError, "float16"),
        (["pack", "RUN", "net.safetensors", "--stem-bits", "4"], ArgumentError, "8 or 16"),
        (["pack", "nowhere", "net.safetensors"], IrnetError, "nowhere"),
        (["pack", "RUN", "nowhere/net.safetensors"], PackedFileError, "writable directory"),
        (["bench", "timm/resnet19"], UnknownNameError, "timm/resnet18"),
        (["bench", "nowhere.safetensors"], ArgumentError, "correct the path"),
        (["bench", "runs/nowhere"], ArgumentError, "correct the path"),
        (["bench", "FILE", "--against", "tensorrt"], UnknownNameError, "torch"),
        (["bench", "RUN/recipe.yaml"], PackedFileError, "refused"),
        (["bench", "FILE", "--stem-bits", "8"], ArgumentError, "pack the file again"),
        (["bench", "FILE", "--real-dtype", "float16"], ArgumentError, "--real-dtype for"),
        (["bench", "FILE", "--rewrites", "rprelu"], ArgumentError, "--rewrites for"),
        (
            ["bench", "RUN", "--rewrites", "rprelu"],
            ArgumentError,
            "leave it out, or bench timm/cifar_resnet20",
        ),
        (["bench", "timm/cifar_resnet20", "--rewrites", "prelu"], UnknownNameError, "rprelu"),
        (["eval", "RUN", "--packed", "RUN/model.safetensors"], PackedFileError, "no metadata"),
    ],
)
def test_bad_input_says_how_to_mend_it(
    arguments: list[str], error: type[IrnetError], hint: str, finished: Path, packed: Path
) -> None:
    given = [a.replace("RUN", str(finished)).replace("FILE", str(packed)) for a in arguments]
    with pytest.raises(error, match=re.escape(hint)):
        runner.invoke(cli.app, given, catch_exceptions=False)
