"""The CIFAR networks as timm models, and model blocks made into networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from irnet_convert.errors import CheckpointError, ModelError, UnknownNameError
from irnet_convert.networks import PadShortcut, create_model, model_spec_of
from irnet_convert.recipe import ModelSpec

# Counted from the papers' layer tables: convolutions, two values a BatchNorm channel, classifier.
PARAMS = {
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
    "cifar_resnet18": 11_173_962,
    "vgg_small": 4_660_106,
}


@pytest.mark.parametrize("name", PARAMS)
def test_each_network_is_a_timm_model(name: str):
    assert timm.is_model(name)
    model = timm.create_model(name, num_classes=7).eval()
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (3, 32, 32)
    assert cfg["num_classes"] == 10
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_features(x)
    assert features.shape[:2] == (2, model.feature_info[-1]["num_chs"])
    assert features.shape[2] == 32 // model.feature_info[-1]["reduction"]
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    torch.testing.assert_close(model(x), model.forward_head(features))
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == 7
    assert dict(model.named_modules())[cfg["classifier"]] is classifier
    assert isinstance(dict(model.named_modules())[cfg["first_conv"]], nn.Conv2d)
    names = set(model.state_dict())
    model.reset_classifier(10)
    assert model(x).shape == (2, 10)
    assert set(model.state_dict()) == names
    assert sum(p.numel() for p in model.parameters()) == PARAMS[name]
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


def test_resnet20_has_the_usual_names():
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    norms = ["bn1", *(f"{block}.bn{n}" for block in blocks for n in (1, 2))]
    expected = {"conv1.weight", "linear.weight", "linear.bias"}
    expected |= {f"{block}.conv{n}.weight" for block in blocks for n in (1, 2)}
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"{norm}.{kind}" for norm in norms for kind in kinds}
    assert set(create_model("timm/cifar_resnet20").state_dict()) == expected


def test_head_bn_normalises_what_the_classifier_sees():
    torch.manual_seed(0)
    model = create_model(ModelSpec(name="timm/cifar_resnet20", kwargs={"head_bn": True}))
    seen = model.forward_head(model.forward_features(torch.randn(16, 3, 32, 32)), pre_logits=True)  # type: ignore[operator]
    torch.testing.assert_close(seen.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    assert {key for key in model.state_dict() if key.startswith("head_bn.")} >= {
        "head_bn.weight",
        "head_bn.bias",
    }


def test_option_a_subsamples_and_pads_with_zeros():
    x = torch.randn(2, 16, 5, 6)
    y = PadShortcut(16, 32, 2)(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_resnet18_keeps_the_input_size_in_its_stem():
    model = create_model("timm/cifar_resnet18")
    assert isinstance(model, timm.models.ResNet)
    assert model.conv1.stride == (1, 1)
    assert isinstance(model.maxpool, nn.Identity)
    assert [each["reduction"] for each in model.feature_info] == [1, 1, 2, 4, 8]


# --- create_model ---------------------------------------------------------------------------------------


def test_both_libraries_by_name():
    assert create_model(ModelSpec(name="timm/resnet18", kwargs={"num_classes": 3})).num_classes == 3
    model = create_model(ModelSpec(name="torchvision/mobilenet_v3_small", kwargs={"num_classes": 3}))
    assert isinstance(model, nn.Module)
    assert model_spec_of("timm/resnet18") == ModelSpec(name="timm/resnet18")


def test_nothing_is_downloaded_for_a_detector_without_pretrained(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    create_model(ModelSpec(name="torchvision/ssdlite320_mobilenet_v3_large", kwargs={"num_classes": 2}))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (ModelSpec(name="timm/resnet19"), UnknownNameError, "'timm/resnet18'"),
        (ModelSpec(name="torchvision/resnet19"), UnknownNameError, "'torchvision/resnet18'"),
        ("resnet18", UnknownNameError, "timm/resnet18 or torchvision/resnet18"),
        (ModelSpec(name="timm/resnet18.nope"), ModelError, "Invalid pretrained tag"),
        (ModelSpec(name="timm/resnet18", kwargs={"foo": 1}), ModelError, "'foo'"),
        (ModelSpec(name="timm/cifar_resnet20", kwargs={"global_poool": "avg"}), ModelError, "global_poool"),
        (ModelSpec(name="timm/cifar_resnet20", pretrained=True), ModelError, "No pretrained weights exist"),
        (ModelSpec(name="timm/resnet18", kwargs={"checkpoint_path": "x.pth"}), ModelError, "checkpoint_path"),
        (ModelSpec(name="torchvision/resnet18", kwargs={"weights": "DEFAULT"}), ModelError, "weights"),
    ],
)
def test_models_that_are_refused(spec: ModelSpec | str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        create_model(spec)


def test_kwargs_are_plain_data():
    with pytest.raises(ValidationError):
        ModelSpec(name="timm/resnet18", kwargs={"act_layer": nn.GELU})  # type: ignore[dict-item]


def test_a_checkpoint_loads_strictly_or_not_at_all(tmp_path: Path):
    path = str(tmp_path / "w.safetensors")
    source = create_model("timm/cifar_resnet20")
    tensors = {
        key: torch.randn_like(t) if t.is_floating_point() else t for key, t in source.state_dict().items()
    }
    save_file(tensors, path)
    loaded = create_model(ModelSpec(name="timm/cifar_resnet20", checkpoint=path)).state_dict()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)

    other = ModelSpec(name="timm/cifar_resnet20", kwargs={"num_classes": 7, "head_bn": True}, checkpoint=path)
    with pytest.raises(CheckpointError) as caught:
        create_model(other)
    assert "missing keys: head_bn.weight" in caught.value.given
    assert "linear.weight (10, 64), not (7, 64)" in caught.value.given

    with pytest.raises(CheckpointError, match=r"unexpected keys: layer1\.2\.bn1"):
        create_model(ModelSpec(name="timm/resnet18", checkpoint=path))


def test_files_that_are_no_checkpoint(tmp_path: Path):
    for name, content, message in (
        ("gone.safetensors", None, "does not exist"),
        ("bad.safetensors", b"not safetensors at all", "cannot be read"),
        ("short.safetensors", b"", "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            create_model(ModelSpec(name="timm/cifar_resnet20", checkpoint=str(tmp_path / name)))
