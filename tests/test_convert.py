"""Conversion as a user calls it: what is refused, and every kind of model and input that is taken."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from irnet_convert.convert import binarize, is_binarized, plan, plan_of, to_dense
from irnet_convert.errors import ModelError, PolicyError, RecordError, UnknownNameError
from irnet_convert.layers import BinaryConv2d, binary_layers
from irnet_convert.policy import Policy, Rule

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


# -- what is refused ----------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def refused(error: type[Exception], words: str, model: Any, *args: Any, **kwargs: Any) -> None:
    """Both ``plan`` and ``binarize`` refuse, in place too, and leave the model as it was."""
    before = (
        [(n, id(m), sorted(vars(m))) for n, m in model.named_modules()] if isinstance(model, nn.Module) else 0
    )
    for call in (plan, binarize, lambda *a, **k: binarize(*a, **k, inplace=True)):
        with pytest.raises(error, match=words) as caught:
            call(model, *args, **kwargs)
        assert "expected:" in str(caught.value)
        assert "to mend it:" in str(caught.value)
    if before:
        assert [(n, id(m), sorted(vars(m))) for n, m in model.named_modules()] == before


@pytest.mark.usefixtures("process_group")
def test_wrapped_for_distributed_training() -> None:
    refused(ModelError, "DistributedDataParallel", DistributedDataParallel(net()), example_input=X)
    refused(ModelError, "DataParallel", DataParallel(net()), example_input=X)
    refused(ModelError, "OptimizedModule", torch.compile(net()), example_input=X)


def test_already_binary() -> None:
    student = binarize(net(), example_input=X)
    refused(ModelError, "already binary", student, example_input=X)
    refused(
        ModelError,
        "already binary",
        nn.Sequential(nn.Conv2d(3, 4, 1), BinaryConv2d(4, 4, 3)),
        example_input=X,
    )


@pytest.mark.parametrize("model", [None, "resnet18", {}, nn.Conv2d])
def test_no_model(model: Any) -> None:
    refused(ModelError, "the model is a", model, example_input=X)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (torch.zeros(1, 5, 16, 16), "5, 16, 16"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.long), "int64"),
        ((X, X), "did not run"),
        ({"images": X}, "images"),
        ([X], "list"),
        ("image", "str"),
        ((), "did not run"),
    ],
)
def test_wrong_example(example: Any, words: str) -> None:
    refused(RecordError, words, net(), example_input=example)


def test_no_example() -> None:
    refused(RecordError, "no example input", net())


def test_a_model_that_cannot_run() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("the model's own words")

    refused(RecordError, "the model's own words", Broken(), example_input=X)


@pytest.mark.parametrize("policy", ["irnte", "", "re:("])
def test_unknown_preset(policy: str) -> None:
    refused(UnknownNameError, "preset", net(), policy, example_input=X)


@pytest.mark.parametrize("policy", [3, [Rule(action="keep")], {"action": "keep"}])
def test_no_policy(policy: Any) -> None:
    refused(PolicyError, "policy is a", net(), policy, example_input=X)


@pytest.mark.parametrize("rewrites", [["shortcuts"], ["padding"], [3], "shortcuts"])
def test_unknown_rewrite(rewrites: Any) -> None:
    refused(UnknownNameError, "rewrite", net(), example_input=X, rewrites=rewrites)


def test_nothing_to_binarize() -> None:
    for model, policy in (
        (net(), Policy([Rule(action="keep")])), (net(), Policy()), (nn.Sequential(nn.ReLU()), None),
        (nn.Sequential(nn.Linear(3, 3)), None),
    ):  # fmt: skip
        example = X if len(model) > 1 else torch.zeros(1, 3)
        for inplace in (False, True):
            with pytest.raises(PolicyError, match="no layer"):
                binarize(model, policy, example_input=example, inplace=inplace)
        assert not is_binarized(model)


def test_the_model_itself_is_one_layer() -> None:
    with pytest.raises(ModelError, match="itself one Linear"):
        binarize(nn.Linear(8, 8), Policy([Rule(action="binarize")]), example_input=torch.zeros(1, 8))


def test_plans_and_dense_forms_of_what_is_not_binary() -> None:
    with pytest.raises(ModelError, match="carries no plan"):
        plan_of(net())
    with pytest.raises(ModelError, match="no binary layer"):
        to_dense(net())
    assert not is_binarized(net())


def test_a_model_that_cannot_be_copied() -> None:
    model = net()
    model.lock = (n for n in range(3))  # generators have no copies
    with pytest.raises(ModelError, match="cannot be copied"):
        binarize(model, example_input=X)
    assert is_binarized(binarize(model, example_input=X, inplace=True))


# -- what is taken --------------------------------------------------------------------------------------


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, images: Tensor, *, factor: Tensor | None = None) -> dict[str, Tensor]:
        out = self.body(images)
        return {"logits": out if factor is None else out * factor}


def test_examples_of_every_form() -> None:
    for model, example in (
        (net(), X), (net(), (X,)), (net(), {"input": X}), (Keyed(), {"images": X}),
        (Keyed(), {"images": X, "factor": torch.ones(1)}), (net(), X.double().requires_grad_().float()),
    ):  # fmt: skip
        assert len(plan_of(binarize(model, example_input=example)).binarized) == 1
    student = binarize(Keyed().eval(), example_input={"images": X})
    assert set(student(images=X)) == {"logits"}


def test_training_mode_is_kept_each_module_for_itself() -> None:
    model = net().train()
    model[1].eval()
    student = binarize(model, example_input=X)
    assert [m.training for m in student.modules()] == [m.training for m in model.modules()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats(dtype: torch.dtype) -> None:
    with torch.device("cpu"):
        model = net().to(dtype)
    student = binarize(model, example_input=X.to(dtype))
    output = student(X.to(dtype))
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert student[3].weight.dtype == dtype
    output.sum().backward()
    assert student[3].weight.grad.isfinite().all()


def test_timm_models_in_half_precision_need_no_example() -> None:
    student = binarize(timm.create_model("resnet10t").eval().bfloat16())
    assert student(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_channels_last() -> None:
    model = net().to(memory_format=torch.channels_last)
    student = binarize(model, example_input=X)
    assert student[3].weight.is_contiguous(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    # The real first layer sums in another order.
    torch.testing.assert_close(student(x), binarize(net(), example_input=X)(X), rtol=1e-3, atol=1e-3)
    student(x).sum().backward()
    assert student[3].weight.grad.shape == student[3].weight.shape


def test_meta_device_and_back() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet10t")
    student = binarize(model)
    assert all(p.is_meta for p in student.parameters())
    weights = timm.create_model("resnet10t").state_dict()
    student.to_empty(device="cpu").load_state_dict(weights)
    student.eval()
    other = timm.create_model("resnet10t").eval()
    other.load_state_dict(weights)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(student(x), binarize(other)(x))
    for _, layer in binary_layers(student):
        assert layer.ede.tolist() == pytest.approx([10.0, 0.1])


def test_real_activations_leave_relus_and_signs_alone() -> None:
    student = binarize(net(), "irnet_w1a32", example_input=X)
    assert [type(student[i]) for i in (2, 5)] == [nn.ReLU, nn.ReLU]
    layer = student[3]
    x = torch.rand(1, 8, 4, 4) + 0.5
    dense = nn.functional.conv2d(x, layer.binary_weight(), padding=1)
    assert torch.equal(layer(x), dense)


def test_a_full_precision_network_inside_a_bigger_module() -> None:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = timm.create_model("resnet10t", num_classes=0), nn.Linear(512, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x))

    student = binarize(Student().eval(), example_input=torch.zeros(1, 3, 64, 64))
    assert type(student.backbone) is timm.models.ResNet
    assert [d.path for d in plan_of(student).decisions if "last" in d.positions] == ["head"]
    assert student(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_no_grad_inference_mode_and_autocast() -> None:
    student = binarize(timm.create_model("resnet10t").eval())
    x = torch.randn(1, 3, 32, 32)
    want = student(x)
    with torch.no_grad():
        assert torch.equal(student(x), want)
    with torch.inference_mode():
        assert torch.equal(student(x), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert student(x).dtype == torch.bfloat16


def test_converting_inside_no_grad_still_trains() -> None:
    with torch.no_grad():
        student = binarize(net(), example_input=X)
    student(X).sum().backward()
    assert student[3].weight.grad is not None
    assert all(p.requires_grad for p in student.parameters())


def test_frozen_parameters_stay_frozen() -> None:
    model = net()
    model[3].weight.requires_grad_(False)
    student = binarize(model, example_input=X)
    assert not student[3].weight.requires_grad
    assert student[8].weight.requires_grad


def test_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    student = binarize(timm.create_model("resnet18", num_classes=10, zero_init_last=False)).eval()
    x = torch.randn(1, 3, 64, 64)
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), student(x))
    student.train()
    compiled(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for _, layer in binary_layers(student))
    torch._dynamo.reset()


def test_the_caller_keeps_the_teacher() -> None:
    teacher = net()
    expected = teacher(X)
    student = binarize(teacher, example_input=X)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(teacher(X), expected)
    assert not is_binarized(teacher)
    assert is_binarized(copy.deepcopy(student))
