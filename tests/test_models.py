"""Every property of conversion, on every network that must be convertible."""

from __future__ import annotations

import copy
import gc
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_cases import CASES, ModelCase, same, seeded, shapes, tensors, without_drop
from torch import Tensor, nn

from irnet_convert.convert import binarize, is_binarized, plan, plan_of, to_dense
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.record import TARGETS
from irnet_convert.graph.replay import replay
from irnet_convert.graph.traced import install, trace
from irnet_convert.layers import BinaryLayer, binary_layers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision", "ignore::FutureWarning")


class Pair:
    """A network, what it became, and what the conversion left of the surroundings."""

    def __init__(self, case: ModelCase) -> None:
        self.case = case
        self.original = case.build()
        self.before = (_digest(self.original), _random_states())
        self.student = binarize(self.original, example_input=case.example_input())
        self.after = (_digest(self.original), _random_states())
        self.plan = plan_of(self.student)
        with torch.no_grad():
            self.output = self.student(*case.inputs())


def _digest(model: nn.Module) -> list[object]:
    state = [(k, v.data_ptr(), hash(v.numpy().tobytes())) for k, v in model.state_dict().items()]
    modules = [(n, id(m), m.training, sorted(vars(m))) for n, m in model.named_modules()]
    return [state, modules]


def _random_states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, id=c.id, marks=pytest.mark.xdist_group(c.id)) for c in CASES],
)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    yield Pair(request.param)
    gc.collect()


def test_original_is_untouched(pair: Pair) -> None:
    assert pair.before == pair.after
    assert not is_binarized(pair.original)
    assert len(pair.plan.binarized) > 0


def test_every_layer_has_one_decision_with_a_reason(pair: Pair) -> None:
    layers = [p for p, m in pair.original.named_modules() if isinstance(m, TARGETS)]
    assert [d.path for d in pair.plan.decisions] == layers
    for d in pair.plan.decisions:
        now = pair.student.get_submodule(d.path)
        assert d.reason
        assert d.action in ("keep", "binarize")
        assert (d.action == "binarize") == isinstance(now, BinaryLayer)
        assert all(pair.student.get_submodule(alias) is now for alias in d.aliases)
    assert any("first" in d.positions for d in pair.plan.decisions)
    assert any("last" in d.positions for d in pair.plan.decisions)
    assert len(list(binary_layers(pair.student))) == len(pair.plan.binarized)


def test_objects_stay_what_they_were(pair: Pair) -> None:
    binarized = {p for d in pair.plan.binarized for p in (d.path, *d.aliases)}
    hardtanh = {e.owner for e in pair.plan.edits if e.form == "module" and e.rewrite == "activation"}
    names = [n for n, _ in pair.original.named_modules(remove_duplicate=False)]
    assert names == [n for n, _ in pair.student.named_modules(remove_duplicate=False)]
    replaced = {id(pair.original.get_submodule(p)) for p in (*binarized, *hardtanh)}
    for name, module in pair.original.named_modules(remove_duplicate=False):
        now = pair.student.get_submodule(name)
        if id(module) not in replaced:
            assert type(now) is type(module), name
            fresh = set(vars(now)) - set(vars(module))
            assert fresh <= {"forward", "irnet_plan"}, name
        elif name in hardtanh:
            assert type(now) is nn.Hardtanh
        else:
            family = next(kind for kind in TARGETS if isinstance(module, kind))
            assert isinstance(now, family), name
    if pair.case.library == "timm":
        assert pair.student.pretrained_cfg == pair.original.pretrained_cfg


def test_keys_and_checkpoints(pair: Pair) -> None:
    keys = list(pair.original.state_dict())
    assert [k for k in pair.student.state_dict() if k not in pair.plan.added_keys] == keys
    assert set(pair.student.state_dict()) == {*keys, *pair.plan.added_keys}
    student = copy.deepcopy(pair.student)
    _spoil(student)
    student.load_state_dict(pair.original.state_dict(), strict=True)
    with torch.no_grad():
        assert same(student(*pair.case.inputs()), pair.output)
    _spoil(student)
    student.load_state_dict(pair.student.state_dict(), strict=True)
    with torch.no_grad():
        assert same(student(*pair.case.inputs()), pair.output)


def _spoil(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(0.5)


def test_forward_as_the_original_takes_it(pair: Pair) -> None:
    """Other batch and image sizes, in both modes; train mode runs on copies, since it changes statistics."""
    case = pair.case
    for training in (False, True):
        original, student = (
            copy.deepcopy(m).train() if training else m for m in (pair.original, pair.student)
        )
        inputs = case.inputs(3 if training else 2, None if training else case.other, training=training)
        with torch.no_grad():
            want, got = original(*inputs), student(*inputs)
        assert type(got) is type(want)
        assert shapes(got, detects=case.detects) == shapes(want, detects=case.detects)
        assert all(t.isfinite().all() for t in tensors(got) if t.is_floating_point())


def test_training_on_binary_weights_reaches_every_latent(pair: Pair) -> None:
    """Each layer's output is an independent convolution of sign(input) with ±2^s weights, and trains."""
    called: set[str] = set()
    student = copy.deepcopy(pair.student).train()  # batch statistics keep the inputs centred
    without_drop(student)
    names = {layer: name for name, layer in binary_layers(student)}

    def check(layer: BinaryLayer, args: tuple[Tensor, ...], kwargs: dict, output: Tensor) -> None:
        called.add(names[layer])
        assert args[0].min() < 0, f"{names[layer]} has no negative input"
        with torch.no_grad():
            expected = _reference(layer, args[0], kwargs.get("zero_pad"), kwargs.get("bias", layer.bias))
        torch.testing.assert_close(
            output, expected, rtol=1e-4, atol=1e-4, msg=lambda m: f"{names[layer]}: {m}"
        )

    hooks = [layer.register_forward_hook(check, with_kwargs=True) for layer in names]
    outputs = student(*pair.case.inputs(2, training=True))
    assert called == {d.path for d in pair.plan.binarized}
    assert hooks
    generator = torch.Generator().manual_seed(3)
    loss = sum(
        (t * torch.randn(t.shape, generator=generator)).sum() for t in tensors(outputs) if t.requires_grad
    )
    loss.backward()
    before = {}
    for layer, name in names.items():
        assert layer.weight.grad is not None, name
        assert layer.weight.grad.isfinite().all(), name
        assert layer.weight.grad.abs().max() > 0, name
        before[name] = layer.weight.detach().clone()
    torch.optim.SGD(student.parameters(), lr=1e-3).step()
    assert all(not torch.equal(before[name], layer.weight) for layer, name in names.items())


def _reference(
    layer: BinaryLayer, x: Tensor, zero_pad: tuple[int, ...] | None, bias: Tensor | None
) -> Tensor:
    assert layer.act_bits == 1
    signs = torch.where(x >= 0, 1.0, -1.0)
    weight = layer.binary_weight()
    magnitude = weight.abs().flatten(1)
    assert (magnitude == magnitude[:, :1]).all()
    assert (magnitude[:, 0].log2() == magnitude[:, 0].log2().round()).all()
    latent = layer.weight[:16].double().flatten(1)
    centred = latent - latent.mean(1, keepdim=True)
    clear = centred.abs() > 1e-5 * latent.std(1, keepdim=True)
    assert (weight[:16].flatten(1).sign() == centred.sign())[clear].all()
    if layer.scale is not None:
        weight = weight * layer.scale.reshape(-1, *[1] * (weight.dim() - 1))
    if hasattr(layer, "gain"):  # γ·n^-½ of a normaliser-free network
        weight = weight * layer.gain * layer.fan_in_scale
    if isinstance(layer, nn.Linear):
        return F.linear(signs, weight, bias)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    if zero_pad is not None:
        signs = F.pad(signs, list(zero_pad))
    padding = layer.padding
    if "Same" in type(layer).__name__:
        amounts = []
        for axis in (1, 0):
            size, stride, kernel = x.shape[axis - 2], layer.stride[axis], layer.kernel_size[axis]
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * layer.dilation[axis] + 1 - size, 0)
            amounts += [total // 2, total - total // 2]
        signs, padding = F.pad(signs, amounts), (0, 0)
    conv = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    return conv(signs, weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)


def test_copies_and_dense_form_compute_the_same(pair: Pair) -> None:
    inputs = pair.case.inputs()
    with torch.no_grad():
        for copied in (copy.deepcopy(pair.student), pickle.loads(pickle.dumps(pair.student))):
            assert same(copied(*inputs), pair.output)
            assert plan_of(copied) == pair.plan
            for module in copied.modules():  # a rewritten forward must run on the copy's own modules
                if "forward" in vars(module):
                    assert module.forward.owner is module
            del copied
        dense = to_dense(pair.student)
        assert not is_binarized(dense)
        assert same(dense(*inputs), pair.output)


#: Networks that are converted in place from the start; the others by their saved plan, which is cheaper.
_IN_PLACE = ("timm-resnet18", "timm-vit_tiny_patch16_224", "torchvision-resnet18")


def test_in_place_and_by_its_saved_plan(pair: Pair) -> None:
    """Parameters are moved, not copied; every other module stays the same object."""
    model = copy.deepcopy(pair.original)
    held = {n: (p, p.data_ptr()) for n, p in model.named_parameters(remove_duplicate=False)}
    modules = dict(model.named_modules())
    if pair.case.id in _IN_PLACE:
        assert plan(model, example_input=pair.case.example_input()) == pair.plan
        result = binarize(model, example_input=pair.case.example_input(), inplace=True)
    else:
        result = replay(model, Plan.from_dict(pair.plan.to_dict()))
    assert result is model
    now = dict(result.named_parameters(remove_duplicate=False))
    for name, (parameter, address) in held.items():
        assert now[name] is parameter
        assert now[name].data_ptr() == address
    swapped = {p for d in pair.plan.binarized for p in (d.path, *d.aliases)}
    swapped |= {e.owner for e in pair.plan.edits if (e.rewrite, e.form) == ("activation", "module")}
    stayed = [n for n, m in modules.items() if result.get_submodule(n) is m]
    assert set(modules) - set(stayed) == swapped & set(modules)
    with torch.no_grad():
        assert same(result(*pair.case.inputs()), pair.output)


def test_unedited_graphs_compute_what_the_forwards_do(pair: Pair) -> None:
    """Drop-out, drop-path and batch statistics included, in both modes."""
    plain, traced = copy.deepcopy(pair.original), copy.deepcopy(pair.original)
    for owner, passed in pair.plan.traced.items():
        module = traced.get_submodule(owner)
        install(module, trace(module, set(passed)))
    for training in (False, True):
        inputs = pair.case.inputs(2, training=training)
        plain.train(training)
        traced.train(training)
        with torch.no_grad():
            want, got = seeded(lambda i=inputs: plain(*i)), seeded(lambda i=inputs: traced(*i))
        assert same(got, want)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, traced.state_dict()[key]), key


def test_timm_methods_still_work(pair: Pair) -> None:
    if pair.case.library != "timm":
        pytest.skip("torchvision's models have no such methods")
    student = copy.deepcopy(pair.student)
    with torch.no_grad():
        features = student.forward_features(*pair.case.inputs())
        assert shapes(features) == shapes(pair.original.forward_features(*pair.case.inputs()))
        assert same(student.forward_head(features), pair.output)
        student.reset_classifier(5)
        assert {t.shape[-1] for t in tensors(student.eval()(*pair.case.inputs()))} == {5}
