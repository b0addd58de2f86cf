"""Saved and built again: the same network, bit for bit; and what cannot be saved is refused in whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import irnet_convert
from irnet_convert.errors import IrnetError, PretrainedError
from irnet_convert.layers.model import binary_layers
from irnet_convert.networks import create_model
from irnet_convert.networks.origin import Images, origin_of
from irnet_convert.pretrained import from_pretrained, save_pretrained
from irnet_convert.pretrained.stored import describe_file
from irnet_convert.recipe import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:(timm|torchvision)")

# The four kinds of forward that a conversion leaves: modules alone, a rewritten graph, torchvision's shared
# ReLU in it, a layer whose owner applies its weight itself.
MODELS = {
    "cifar_resnet20": (ModelSpec(name="timm/cifar_resnet20", kwargs={"head_bn": True}), 32),
    "timm_resnet": (ModelSpec(name="timm/test_resnet", kwargs={"num_classes": 5}), 64),
    "timm_vit": (ModelSpec(name="timm/test_vit", kwargs={"num_classes": 5, "img_size": 64}), 64),
    "timm_efficientnet": (ModelSpec(name="timm/test_efficientnet", kwargs={"num_classes": 3}), 64),
    "torchvision_resnet": (
        ModelSpec(name="torchvision/resnet18", kwargs={"num_classes": 4, "width_per_group": 64}),
        32,
    ),
    "beit": (
        ModelSpec(
            name="timm/beit_base_patch16_224",
            kwargs={"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4},
        ),
        32,
    ),
}


def trained(model: nn.Module, side: int, steps: int = 2) -> nn.Module:
    """A few steps of training: statistics, scales and the schedule leave their beginnings."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(irnet_convert.param_groups(model, 0.05, 1e-4), momentum=0.9)
    model.train()
    for step in range(steps):
        irnet_convert.set_progress(model, (step + 1) / 7, t_min=0.02, t_max=8.0)
        loss = model(torch.randn(4, 3, side, side, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def student_of(name: str) -> tuple[nn.Module, Tensor]:
    spec, side = MODELS[name]
    torch.manual_seed(1)
    images = torch.randn(3, 3, side, side)
    return trained(irnet_convert.binarize(create_model(spec), example_input=images), side), images


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
    packed = irnet_convert.load_packed(save_pretrained(student, tmp_path / "saved") / "packed.safetensors")
    torch.testing.assert_close(packed(images), student.eval()(images), atol=1e-4, rtol=1e-4)
    assert packed.source["name"] == "timm/cifar_resnet20"
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


def _eps(model: nn.Module) -> None:
    model.get_submodule("bn1").eps = 1e-3  # type: ignore[assignment]


def _hook(model: nn.Module) -> None:
    model.get_submodule("bn1").register_forward_hook(lambda module, args, output: output * 2)


def _forward(model: nn.Module) -> None:
    model.get_submodule("bn1").forward = lambda x: x  # type: ignore[method-assign]


def _head(model: nn.Module) -> None:
    model.linear = nn.Linear(64, 11)


def _act(model: nn.Module) -> None:
    model.act1 = nn.GELU()


def _state(model: nn.Module) -> None:
    model.get_submodule("bn1").register_buffer("more", torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [(_eps, "eps of bn1 is 0.001, and 1e-05"), (_hook, "hooks of bn1 is 1"), (_forward, "forward of bn1"),
     (_head, r"linear.weight \(11, 64\), not \(10, 64\)"), (_act, "act1 is a GELU, not a ReLU"),
     (_state, "unexpected keys: bn1.more")],
)  # fmt: skip
def test_a_model_that_its_name_does_not_build_again_is_refused(change, said: str, tmp_path: Path) -> None:
    model = create_model("timm/cifar_resnet20")
    change(model)
    with pytest.raises(PretrainedError, match=said):
        save_pretrained(model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_none(tmp_path: Path) -> None:
    student, _ = student_of("cifar_resnet20")
    for model, said in [
        ("resnet18", "is a str"),
        (irnet_convert.pack(student), "is packed"),
        (nn.Sequential(student), "carries no plan"),
        (nn.Sequential(nn.Linear(2, 2)), "which architecture"),
        (nn.Linear(2, 2, device="meta"), "on meta"),
    ]:
        with pytest.raises(PretrainedError, match=said):
            save_pretrained(model, tmp_path / "saved")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "timm/nonesuch", "timm/../x", ModelSpec(name="timm/resnet18", kwargs={"pretrained": True})],
)
def test_architectures_that_are_none(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(IrnetError):
        save_pretrained(create_model("timm/cifar_resnet20"), tmp_path / "saved", architecture=architecture)
    assert list(tmp_path.iterdir()) == []


# -- the directory


def test_a_foreign_directory_is_refused_and_kept(tmp_path: Path) -> None:
    model = create_model("timm/cifar_resnet20")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PretrainedError, match=r"holds 'notes.txt'"):
        save_pretrained(model, tmp_path)
    (tmp_path / "notes.txt").rename(tmp_path / "config.json")
    with pytest.raises(PretrainedError, match="holds no saved model"):
        save_pretrained(model, tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"
    with pytest.raises(PretrainedError, match="is no directory"):
        save_pretrained(model, tmp_path / "config.json")


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, _ = student_of("cifar_resnet20")
    where = save_pretrained(student, tmp_path / "saved", packed=False)
    before = {path.name: path.read_bytes() for path in where.iterdir()}

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("irnet_convert.pretrained.save.write_synced", full)
    with pytest.raises(PretrainedError, match="No space left"):
        save_pretrained(student, where, packed=False)
    with pytest.raises(PretrainedError, match="No space left"):
        save_pretrained(student, tmp_path / "new", packed=False)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


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
