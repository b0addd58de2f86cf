"""The command line through its real entry point."""

import json
import re

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import irnet_convert
from irnet_convert import cli
from irnet_convert.errors import IrnetError, ModelError, PolicyError, UnknownNameError

runner = CliRunner()
SMALL = ["--input-size", "1x3x32x32"]


def run(*arguments: str) -> str:
    done = runner.invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_plan_prints_a_row_a_layer_and_why():
    text = run("plan", "timm/cifar_resnet20", *SMALL)
    assert "18 of 20 layers binarized" in re.sub(r"\s+", " ", text)
    assert "first layer" in text
    assert "layer3.2.conv2" in text


def test_plan_json_reads_back_as_a_plan():
    data = json.loads(run("plan", "timm/cifar_resnet20", "--json", *SMALL))
    plan = irnet_convert.Plan.from_dict(data)
    assert [d.path for d in plan.decisions if d.action == "keep"] == ["conv1", "linear"]


def test_policy_file_and_preset(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("- {action: keep, name: layer1.*}\n- {preset: irnet}\n")
    data = json.loads(run("plan", "timm/cifar_resnet20", "--json", "--policy", str(file), *SMALL))
    assert sum(d["action"] == "binarize" for d in data["decisions"]) == 12
    data = json.loads(run("plan", "timm/cifar_resnet20", "--json", "--policy", "irnet_w1a32", *SMALL))
    assert {d["act_bits"] for d in data["decisions"]} == {32}


def test_rewrites_and_model_arguments():
    data = json.loads(
        run("plan", "timm/cifar_resnet20", "--json", "--rewrites", "activation",
            "--model-kwargs", '{"num_classes": 7}', *SMALL)
    )  # fmt: skip
    assert data["rewrites"] == ["activation", "padding", "projection"]
    assert {e["rewrite"] for e in data["edits"]} == {"activation"}


def test_summarize_counts_binary_and_full_precision():
    binary = json.loads(run("summarize", "timm/cifar_resnet20", "--json", *SMALL))
    real = json.loads(run("summarize", "timm/cifar_resnet20", "--json", "--full-precision", *SMALL))
    assert binary["flops"] + binary["bops"] == real["flops"] == real["flops_fp32"] == binary["flops_fp32"]
    assert real["bops"] == 0
    assert "smaller" in run("summarize", "timm/cifar_resnet20", *SMALL)


def test_recipe_list_and_show():
    assert "cifar10_resnet20" in run("recipe", "list")
    text = run("recipe", "show", "digits", "epochs=3")
    assert "epochs: 3" in text
    assert "name: digits" in text


@pytest.mark.parametrize("command", ["", "plan", "summarize", "train", "eval", "plot", "recipe"])
def test_help_teaches(command):
    text = run(*([command] if command else []), "--help")
    assert "Usage" in text


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["plan", "timm/resnet19"], UnknownNameError, "timm/resnet18"),
        (["plan", "resnet18"], UnknownNameError, "timm/resnet18"),
        (["plan", "timm/cifar_resnet20", "--policy", "irnett"], UnknownNameError, "irnet"),
        (["plan", "timm/cifar_resnet20", "--policy", "missing.yaml"], PolicyError, "missing.yaml"),
        (["plan", "timm/cifar_resnet20", "--input-size", "3"], ModelError, "1x3x224x224"),
        (["plan", "timm/cifar_resnet20", "--input-size", "1x1x32x32"], IrnetError, "example_input"),
        (["plan", "timm/cifar_resnet20", "--rewrites", "activations"], UnknownNameError, "activation"),
        (["plan", "timm/cifar_resnet20", "--model-kwargs", "[]"], ModelError, "JSON object"),
        (["eval", "nowhere"], IrnetError, "nowhere"),
        (["recipe", "show", "digit"], UnknownNameError, "digits"),
    ],
)
def test_bad_input_says_how_to_mend_it(arguments, error, hint):
    with pytest.raises(error, match=re.escape(hint)):
        runner.invoke(cli.app, arguments, catch_exceptions=False)


def test_main_prints_errors_as_text_and_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["irnet-convert", "plan", "timm/resnet19"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "expected:" in text
    assert "Traceback" not in text


def test_a_run_is_a_model(tmp_path, monkeypatch):
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(2)
    )
    made(torch.zeros(1, 3, 16, 16))
    (tmp_path / "recipe.yaml").write_text("")
    monkeypatch.setattr("irnet_convert.train.load", lambda path: made)
    data = json.loads(run("summarize", str(tmp_path), "--json", "--input-size", "1x3x16x16"))
    assert data["binary_params"] == 8 * 8 * 9
