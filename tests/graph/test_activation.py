"""No binarized layer is fed by a ReLU, whatever its spelling; a ReLU that feeds real layers stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan, plan_of
from irnet_convert.errors import PolicyError
from irnet_convert.layers import BinaryLayer, Hardtanh
from irnet_convert.policy import Policy, Rule

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv(inside: int = 8, out: int = 8, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, padding=kernel // 2)


class Net(nn.Module):
    """stem → ``between`` → middle → head, with ``between`` to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.head = conv(3), conv(), nn.Linear(8, 2)
        self.act, self.norm = nn.ReLU(), BatchNormAct2d(8)

    def between(self, x: Tensor) -> Tensor:
        return self.act(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.between(self.stem(x))).mean((2, 3)))


class Functional(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.relu(x)


class InPlace(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.relu(x + 0, inplace=True)


class Method(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.relu()


class MethodInPlace(Net):
    def between(self, x: Tensor) -> Tensor:
        return (x + 0).relu_()


class TorchFunction(Net):
    def between(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Six(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.relu6(x)


class InNorm(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Pooled(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.dropout(self.act(x), 0.1, self.training), 2)


class Joined(Net):
    """Two sources, one of them negative: half of the layer's signs would be constant."""

    def between(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([self.act(a), -b], 1)


FORMS = [Net, Functional, InPlace, Method, MethodInPlace, TorchFunction, Six, InNorm, Pooled, Joined]


def negatives(model: nn.Module) -> dict[str, bool]:
    """For each binary layer, whether it saw a negative input."""
    seen: dict[str, bool] = {}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            module.register_forward_pre_hook(
                lambda _, args, n=name: seen.update({n: bool((args[0] < 0).any())})
            )
    model(X)
    return seen


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("training", [False, True])
def test_every_spelling_changes(kind: type[Net], training: bool) -> None:
    torch.manual_seed(0)
    student = binarize(kind().train(training), example_input=X, rewrites=["activation"])
    assert negatives(student) == {"middle": True}
    # And nothing but the activation changed: the stem's output, limited to ±1, is what comes in.
    if kind not in (Pooled, Joined, InNorm):
        got: list[Tensor] = []
        student.middle.register_forward_pre_hook(lambda _, args: got.append(args[0]))
        student(X)
        assert torch.equal(got[0], student.stem(X).clamp(-1, 1))


@pytest.mark.parametrize("kind", FORMS)
def test_without_the_rewrite_the_layer_is_kept_with_that_reason(kind: type[Net]) -> None:
    decisions = {d.path: d for d in plan(kind().eval(), example_input=X, rewrites=[]).decisions}
    assert decisions["middle"].action == "keep"
    assert "cannot be negative" in decisions["middle"].reason


def test_a_module_is_replaced_with_its_attributes_and_hooks() -> None:
    class Two(nn.Sequential):
        pass

    model = Two(conv(3), nn.ReLU6(inplace=True), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 2)).eval()
    calls: list[str] = []
    handle = model[1].register_forward_hook(lambda *_: calls.append("hook"))
    model[1].label = "mine"
    student = binarize(model, example_input=X, inplace=True)
    assert student is model
    assert type(student) is Two
    assert [type(m) for m in student[1::2]] == [
        Hardtanh,
        nn.ReLU,
        nn.Linear,
    ]  # [3] feeds the last layer only
    assert student[1].inplace
    assert student[1].label == "mine"
    calls.clear()  # recordings call it too
    student(X)
    assert calls == ["hook"]
    handle.remove()
    student(X)
    assert calls == ["hook"]


def test_shared_module_of_which_one_call_feeds_a_binary_layer() -> None:
    class Shared(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.middle(self.act(self.stem(x))))
            return self.head(y.mean((2, 3)))

    student = binarize(Shared().eval(), example_input=X, rewrites=["activation"])
    edits = plan_of(student).edits
    assert [(e.form, e.owner, e.target, e.ordinal) for e in edits] == [("call", "", "act", 0)]
    assert type(student.act) is nn.ReLU
    seen: list[Tensor] = []
    student.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert negatives(student) == {"middle": True}
    assert (seen[0] >= 0).all()


def test_shared_module_all_of_whose_calls_feed_binary_layers() -> None:
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = conv()

        def forward(self, x: Tensor) -> Tensor:
            y = self.other(self.act(self.middle(self.act(self.stem(x)))))
            return self.head(y.mean((2, 3)))

    student = binarize(Shared().eval(), example_input=X, rewrites=["activation"])
    assert type(student.act) is Hardtanh
    assert negatives(student) == {"middle": True, "other": True}


@pytest.mark.parametrize("functional", [False, True])
def test_several_of_the_calls_in_one_forward(functional: bool) -> None:
    """The last block of torchvision's resnet50: two of three calls feed binary layers."""

    class Three(Net):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.third = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            act = F.relu if functional else self.act
            y = act(self.third(act(self.second(act(self.middle(act(self.stem(x))))))))
            return self.head(y.mean((2, 3)))

    student = binarize(Three().eval(), example_input=X, rewrites=["activation"])
    seen: list[Tensor] = []
    student.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert negatives(student) == {"middle": True, "second": True, "third": True}
    assert (seen[0] >= 0).all()


def test_torchvision_resnet50() -> None:
    with torch.device("meta"):
        student = binarize(torchvision.models.resnet50())
    last = [e for e in plan_of(student).edits if e.owner == "layer4.2" and e.rewrite == "activation"]
    assert {(e.form, e.ordinal) for e in last} == {("call", 0), ("call", 1)}
    assert type(student.layer4[2].relu) is nn.ReLU
    assert type(student.layer4[1].relu) is Hardtanh


class Untraceable(Functional):
    """A forward that branches on values cannot be rewritten."""

    def between(self, x: Tensor) -> Tensor:
        return F.relu(x) if x.shape[0] > 100 or bool((x.abs().sum() >= 0).item()) else x


def test_what_cannot_be_rewritten_is_kept_with_its_reason() -> None:
    made = plan(Untraceable().eval(), example_input=X)
    (middle,) = (d for d in made.decisions if d.path == "middle")
    assert middle.action == "keep"
    assert "relu in the model" in middle.reason


def test_other_sources_of_non_negative_inputs_keep_the_layer() -> None:
    class Gated(Net):
        def between(self, x: Tensor) -> Tensor:
            return x.sigmoid()

    class Clamped(Net):
        def between(self, x: Tensor) -> Tensor:
            return x.clamp(min=0)

    class RealActivation(Net):
        def between(self, x: Tensor) -> Tensor:
            return F.relu(x).square()

    for kind in (Gated, Clamped, RealActivation):
        (middle,) = (d for d in plan(kind().eval(), example_input=X).decisions if d.path == "middle")
        assert (middle.action, "cannot be negative" in middle.reason) == ("keep", True)


def test_real_activations_leave_every_relu() -> None:
    policy = Policy([Rule(action="keep", position="first"), Rule(action="keep", position="last"),
                     Rule(action="binarize", act_bits=32)])  # fmt: skip
    student = binarize(Net().eval(), policy, example_input=X)
    assert type(student.act) is nn.ReLU
    assert student.middle.act_bits == 32
    assert plan_of(student).edits == () or all(e.rewrite != "activation" for e in plan_of(student).edits)


def test_relu_that_feeds_a_real_and_a_binary_layer_changes_for_both() -> None:
    class Both(Net):
        def __init__(self) -> None:
            super().__init__()
            self.side = conv(8, 8)
            self.side.weight.requires_grad_()

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.stem(x))
            return self.head((self.middle(y) + self.side(y)).mean((2, 3)))

    policy = Policy([Rule(action="keep", name="side"), *Policy.preset("irnet")])
    student = binarize(Both().eval(), policy, example_input=X, rewrites=["activation"])
    assert type(student.act) is Hardtanh
    assert negatives(student) == {"middle": True}


def test_hardtanh_and_leaky_relu_stay() -> None:
    for act in (nn.Hardtanh(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Identity()):
        model: Any = Net().eval()
        model.act = act
        student = binarize(model, example_input=X)
        assert student.act is not act
        assert type(student.act) is type(act)
        assert all(e.rewrite != "activation" for e in plan_of(student).edits)


class Functional(Net):
    """Its forward cannot be traced, and its ReLU is a function."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head((self.middle(x) * float(x.mean())).mean((2, 3)))


def test_a_relu_that_cannot_be_exchanged_is_said() -> None:
    (note,) = plan(Functional(), example_input=X).notes
    assert "relu in the model stays" in note
    assert "float()" in note
    assert "nn.ReLU" in note
    with pytest.raises(PolicyError, match="float") as error:
        binarize(Functional(), example_input=X)
    assert "example_input" in error.value.mend
