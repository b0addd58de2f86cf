"""Saved and built again: the same network, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from saved_models import MODELS, student_of

import irnet_convert
from irnet_convert.errors import PretrainedError
from irnet_convert.layers.model import binary_layers
from irnet_convert.networks import create_model
from irnet_convert.networks.origin import Images, origin_of
from irnet_convert.pretrained import from_pretrained, save_pretrained
from irnet_convert.pretrained.stored import describe_file
from irnet_convert.recipe import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:(timm|torchvision)")


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    student, images = student_of(name)
    student.eval()
    before = student(images)
    where = save_pretrained(student, tmp_path / "saved", packed=False)
    random = torch.get_rng_state()
    again = from_pretrained(where)
    assert torch.equal(torch.get_rng_state(), random)
    assert not again.training
    assert torch.equal(again(images), before)
    assert irnet_convert.plan_of(again).to_dict() == irnet_convert.plan_of(student).to_dict()
    own = student.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    # A further step of training is the same too: the surrogate's k and t are where they were.
    for one in (student, again):
        one.train().zero_grad()
        torch.manual_seed(5)
        one(images).square().mean().backward()
    pairs = zip(student.named_parameters(), again.named_parameters(), strict=True)
    for (key, ours), (other, theirs) in pairs:
        assert key == other
        assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad), key  # type: ignore[arg-type]


# A table in a buffer that depends on the last images; one layer under several paths; widths computed with
# tensors, which the meta device cannot do.
ODD = {
    "timm/convit_tiny": {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3},
    "timm/coat_tiny": {"img_size": 64, "embed_dims": [16, 16, 16, 16], "serial_depths": [1, 1, 1, 1]},
    "torchvision/regnet_y_400mf": {"num_classes": 4},
}


@pytest.mark.parametrize("name", ODD)
def test_families_that_are_built_in_their_own_ways(name: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = create_model(ModelSpec(name=name, kwargs=ODD[name])).eval()
    images = torch.randn(2, 3, 64, 64)
    model(images)
    student = irnet_convert.binarize(model, example_input=images)
    again = from_pretrained(save_pretrained(student, tmp_path / "saved", packed=False))
    assert torch.equal(again(images), student(images))


def test_a_detector_comes_back_also_after_a_forward_pass(tmp_path: Path) -> None:
    torch.manual_seed(2)
    kwargs = {"num_classes": 3, "min_size": 64, "max_size": 64}
    model = create_model(ModelSpec(name="torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", kwargs=kwargs))
    images = [torch.rand(3, 64, 64)]
    student = irnet_convert.binarize(model.eval(), example_input=(images,)).eval()
    before = student(images)[0]
    again = from_pretrained(save_pretrained(student, tmp_path / "saved", packed=False))(images)[0]
    assert len(before["boxes"]) > 0
    assert before.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in before.items())


def test_what_binary_layers_keep_beside_tensors_comes_back(tmp_path: Path) -> None:
    student, _ = student_of("timm_resnet")
    (path, odd), (_, second) = list(binary_layers(student))[:2]
    odd.set_progress(0.9, 0.5, 2.0)
    second.real_weights = True  # as in a stage of training
    student.eval()
    images = torch.randn(2, 3, 64, 64)
    again = from_pretrained(save_pretrained(student, tmp_path / "saved"))
    assert "in a stage of training" in (tmp_path / "saved" / "README.md").read_text()
    for (_, a), (_, b) in zip(binary_layers(student), binary_layers(again), strict=True):
        assert (a.progress, a.t_min, a.t_max) == (b.progress, b.t_min, b.t_max)
        assert torch.equal(a.ede, b.ede)
    assert again.get_submodule(path).t_max == 2.0
    assert torch.equal(student(images), again(images))


def test_a_full_precision_model_comes_back(tmp_path: Path) -> None:
    teacher = create_model("timm/test_resnet").eval()
    images = torch.randn(2, 3, 64, 64)
    again = from_pretrained(save_pretrained(teacher, tmp_path / "teacher"))
    assert torch.equal(teacher(images), again(images))
    assert not irnet_convert.is_binarized(again)
    assert {p.name for p in (tmp_path / "teacher").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_come_back_also_mixed(dtype: torch.dtype, tmp_path: Path) -> None:
    student, images = student_of("cifar_resnet20")
    student.eval().to(dtype)
    student.get_submodule("bn1").float()
    again = from_pretrained(save_pretrained(student, tmp_path / "saved", packed=False))
    for key, value in again.state_dict().items():
        assert value.dtype == student.state_dict()[key].dtype
    assert torch.equal(
        student.get_submodule("conv1")(images.to(dtype)), again.get_submodule("conv1")(images.to(dtype))
    )


def test_shards_and_their_index(tmp_path: Path) -> None:
    student, images = student_of("cifar_resnet20")
    where = save_pretrained(student, tmp_path / "saved", max_shard_size="200KB", packed=False)
    shards = sorted(where.glob("model-*.safetensors"))
    assert len(shards) > 3
    index = json.loads((where / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in student.state_dict().values())
    assert torch.equal(from_pretrained(where)(images), student.eval()(images))
    # An index that does not say what lies in the shards is refused, also where its hash is right.
    path = where / "model.safetensors.index.json"
    good = {name: (where / name).read_bytes() for name in (path.name, "config.json")}
    index["weight_map"]["conv1.weight"] = shards[-1].name
    path.write_text(json.dumps(index))
    config = json.loads(good["config.json"])
    config["files"][path.name] = describe_file(path)
    (where / "config.json").write_text(json.dumps(config))
    with pytest.raises(PretrainedError, match="does not say what lies in the shards"):
        from_pretrained(where)
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"x")
    for name, content in good.items():
        (where / name).write_bytes(content)
    with pytest.raises(PretrainedError, match=r"model-00001.* has the SHA-256"):
        from_pretrained(where)
    # Replacing it by a model in one file leaves no shard behind.
    save_pretrained(student, where)
    assert sorted(p.name for p in where.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "packed.safetensors",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


def test_the_packed_file_is_the_same_network(tmp_path: Path) -> None:
    student, images = student_of("cifar_resnet20")
    labels = [f"class {i}" for i in range(10)]
    saved = save_pretrained(student, tmp_path / "saved", labels=labels)
    packed = irnet_convert.load_packed(saved / "packed.safetensors")
    torch.testing.assert_close(packed(images), student.eval()(images), atol=1e-4, rtol=1e-4)
    assert packed.source["name"] == "timm/cifar_resnet20"
    assert packed.source["labels"] == labels
    saved = save_pretrained(
        student, tmp_path / "saved", labels=["", *labels[1:]]
    )  # no string of a packed file
    assert "labels" not in irnet_convert.load_packed(saved / "packed.safetensors").source
    assert "load_packed" in (tmp_path / "saved" / "README.md").read_text()


# -- how the architecture is known


def test_timm_says_which_of_its_models_it_is(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7, drop_rate=0.1)
    again = from_pretrained(save_pretrained(irnet_convert.binarize(model), tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architecture"] == {
        "name": "timm/test_resnet",
        "kwargs": {"num_classes": 7, "drop_rate": 0.1},
    }
    assert config["source"].startswith("hf-hub:timm/test_resnet")
    assert origin_of(again).images.input_size == tuple(model.pretrained_cfg["input_size"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "kwargs"),
    [
        ({"num_classes": 7}, {"num_classes": 7}),
        ({"input_size": (1, 160, 160)}, {"in_chans": 1}),
        ({"input_size": (3, 96, 96)}, {"img_size": [96, 96]}),
        ({}, {}),
    ],
)
def test_what_timm_took_from_the_configuration_of_some_weights_is_kept(
    config: dict[str, Any], kwargs: dict[str, Any], tmp_path: Path
) -> None:
    model = timm.create_model("test_vit", pretrained_cfg_overlay=config).eval()
    again = from_pretrained(save_pretrained(model, tmp_path / "saved", packed=False))
    found = json.loads((tmp_path / "saved" / "config.json").read_text())["architecture"]
    assert found == {"name": "timm/test_vit", "kwargs": kwargs}
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert torch.equal(again(images), model(images))


def test_a_torchvision_model_needs_a_name(tmp_path: Path) -> None:
    model = irnet_convert.binarize(torchvision.models.resnet18(num_classes=3))
    with pytest.raises(PretrainedError, match="which architecture this ResNet is") as error:
        save_pretrained(model, tmp_path / "saved")
    assert "architecture='timm/NAME', or irnet_convert.recipe.ModelSpec" in error.value.mend
    assert not (tmp_path / "saved").exists()
    with pytest.raises(PretrainedError, match=r"other shapes: fc.weight \(3, 512\), not \(1000, 512\)"):
        save_pretrained(model, tmp_path / "saved", architecture="torchvision/resnet18")
    save_pretrained(
        model,
        tmp_path / "saved",
        architecture=ModelSpec(name="torchvision/resnet18", kwargs={"num_classes": 3}),
        packed=False,
    )
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(from_pretrained(tmp_path / "saved")(images), model.eval()(images))


# -- what is said of it


def test_the_config_and_the_card_say_what_was_given(tmp_path: Path) -> None:
    student, _ = student_of("timm_vit")
    labels = ["zero", "one | two", "`three`", "<b>four</b>", "five\nsix"]
    images = {
        "input_size": (3, 64, 64),
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    save_pretrained(
        student, tmp_path / "saved", labels=labels, images=images, metrics={"top1": 81.25, "count": 400},
        dataset="org/digits", license="apache-2.0", name="org/vit-binary",
    )  # fmt: skip
    origin = origin_of(from_pretrained(tmp_path / "saved"))
    assert origin is not None
    assert origin.labels == tuple(labels)
    assert origin.images == Images(**images)
    card = (tmp_path / "saved" / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "value: 81.25",
        "from_pretrained('org/vit-binary')",
        "| top-1 accuracy, % | 81.25 |",
        "(N, 3, 64, 64)",
        "| of them binary |",
        "org/digits",
    ):
        assert part in card


def test_timm_finds_the_images_of_a_loaded_model(tmp_path: Path) -> None:
    images = {"input_size": (3, 48, 48), "mean": (0.1,) * 3, "std": (0.9,) * 3}
    model = from_pretrained(save_pretrained(create_model("timm/test_resnet"), tmp_path / "s", images=images))
    assert timm.data.resolve_model_data_config(model)["mean"] == (0.1,) * 3


def test_saved_again_it_is_the_same(tmp_path: Path) -> None:
    student, _ = student_of("cifar_resnet20")
    first = save_pretrained(student, tmp_path / "a" / "model", labels=["x"] * 10)
    second = save_pretrained(from_pretrained(first), tmp_path / "b" / "model")
    for name in ("README.md", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (first, second))
    # The order of a packed file's metadata is the writing library's own choice.
    assert {**ours, "files": 0} == {**theirs, "files": 0}


def test_paths_and_revisions(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match="there is no directory"):
        from_pretrained(tmp_path / "nothing")
    with pytest.raises(PretrainedError, match="there is no directory"):
        from_pretrained("./nothing/at/all")
    with pytest.raises(PretrainedError, match=r"there is no config\.json"):
        from_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="a directory has none"):
        from_pretrained(tmp_path, revision="main")
