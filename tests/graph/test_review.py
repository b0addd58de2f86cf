"""Cases that a reviewer broke: each was silently wrong once."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irnet_convert import (
    Policy,
    Rule,
    binarize,
    is_binarized,
    param_groups,
    plan,
    plan_of,
    summarize,
    to_dense,
)
from irnet_convert.errors import ModelError, RewriteError

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    """Called as block(x, None): fx's proxies are never None."""

    def __init__(self, wired: bool) -> None:
        super().__init__()
        self.c, self.b, self.wired = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), wired

    def forward(self, x, mask=None):
        y = self.b(self.c(x))
        if self.wired:
            return F.relu(y + (x if mask is None else y))
        return F.relu(y * (1.0 if mask is None else 0.5))


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.k, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleList(blocks), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.k:
            x = block(x, None) if isinstance(block, Masked) else block(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("wired", [False, True])
def test_a_default_given_by_position_is_a_default(wired):
    model = Net(Masked(wired), Masked(wired)).eval()
    student = binarize(model, Policy([Rule(action="binarize", name="k.1.c")]), example_input=X,
                       rewrites=["activation"])  # fmt: skip
    y = model.stem(X)
    want = model.k[0].b(model.k[0].c(y))
    want = F.hardtanh(want + y if wired else want)
    torch.testing.assert_close(student.k[0](student.stem(X), None), want)


def test_a_graph_with_other_wiring_is_distrusted():
    """A mask that is a tensor in one call and None in another cannot be traced once for both."""

    class Both(Net):
        def forward(self, x):
            x = self.stem(x)
            x = self.k[0](x, None)
            x = self.k[0](x, torch.ones(1))
            return self.fc(self.k[1](x, None).mean((2, 3)))

    model = Both(Masked(True), Masked(True)).eval()
    found = plan(model, example_input=X, rewrites=["activation"])
    kept = {d.path: d.reason for d in found.decisions if d.action == "keep"}
    assert "cannot be negative" in kept["k.1.c"]
    assert not [e for e in found.edits if e.owner == "k.0"]


class Statement(nn.Module):
    """The ReLU's result is never used: it works in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2, self.b2, self.how = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), how
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.b1(self.c1(x))
        if self.how == "function":
            F.relu(x, inplace=True)
        elif self.how == "method":
            x.relu_()
        else:
            self.act(x)
        y = self.b2(self.c2(x)) + x
        return self.act(y)


@pytest.mark.parametrize("how", ["function", "method", "module"])
def test_an_in_place_relu_stays_in_place(how):
    student = binarize(Net(Statement(how)).eval(), example_input=X, rewrites=["activation"])
    assert is_binarized(student.k[0].c2)
    seen = []
    student.k[0].c2.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    student(X * 50)
    assert seen[0].abs().max() <= 1
    assert seen[0].min() < 0
    student.train()(X).sum().backward()
    assert all(p.grad is not None for p in student.k[0].parameters())


def test_a_changed_attribute_or_child_is_an_error_not_ignored():
    blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardtanh())
    student = binarize(Net(blocks, Masked(True)).eval(), example_input=X)
    assert [e.owner for e in plan_of(student).edits if e.form == "identity_norm"]
    before = student(X)
    for twin in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert torch.equal(twin(X), before)
        twin.k[0].append(nn.Softmax(1))
        with pytest.raises(RewriteError, match="children"):
            twin(X)
    student.k[1].wired = False
    with pytest.raises(RewriteError, match="wired is False, and was True"):
        student(X)


def test_tied_weights_are_kept():
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(5)))
    model[3].weight = model[2].weight
    found = {d.path: d for d in plan(model, example_input=X).decisions}
    assert found["1"].action == "binarize"
    assert found["2"].reason == "its weight is also the weight of 3"
    assert found["3"].reason == "its weight is also the weight of 2"


def test_shortcuts_are_for_binary_activations():
    blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    assert plan(Net(blocks), "irnet_w1a32", example_input=X).edits == ()


def test_wrappers_hide_no_weight_decay_from_nobody():
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.fc = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 4)

        def no_weight_decay(self):
            return {"token"}

    for model in (Picky(), nn.Sequential(Picky()), torch.compile(Picky(), backend="eager")):
        sizes = {g["name"]: len(g["params"]) for g in param_groups(model, lr=0.1, weight_decay=0.1)}
        assert sizes == {"decay": 1, "no_decay": 2}


def test_to_dense_of_one_layer_and_summary_of_named_inputs():
    student = binarize(Net(nn.Conv2d(8, 8, 3, padding=1)).eval(), example_input={"x": X})
    assert type(to_dense(student.k[0])).__name__ == "SignedLayer"
    assert summarize(student).bops == 8 * 8 * 9 * 16 * 16


def test_scripted_models_are_refused_and_one_rewrite_may_be_a_string():
    with pytest.warns(FutureWarning, match="deprecated"):
        traced = torch.jit.trace(nn.Conv2d(3, 8, 3), X)
    with pytest.raises(ModelError, match=r"torch\.jit"):
        binarize(traced, example_input=X)
    assert plan(Net(nn.Conv2d(8, 8, 3)), example_input=X, rewrites="activation").rewrites == (
        "activation",
        "padding",
        "projection",
    )
