"""What a converted network still is, on well-known ones: objects, keys, copies, plans, timm's methods.

What it computes, and how it trains, is asked of every family in test_families.py.
"""

from __future__ import annotations

import copy
import gc
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from model_cases import CASES, ModelCase, same, shapes, tensors
from torch import nn

from irnet_convert.convert import binarize, is_binarized, plan, plan_of, to_dense
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.record import LAYERS
from irnet_convert.graph.replay import replay
from irnet_convert.layers import Hardtanh

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


@pytest.fixture(scope="module", params=[pytest.param(c, id=c.id) for c in CASES])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    yield Pair(request.param)
    gc.collect()


def test_original_is_untouched(pair: Pair) -> None:
    assert pair.before == pair.after
    assert not is_binarized(pair.original)
    assert len(pair.plan.binarized) > 0


def test_objects_stay_what_they_were(pair: Pair) -> None:
    binarized = {p for d in pair.plan.binarized for p in (d.path, *d.aliases)}
    hardtanh = {e.owner for e in pair.plan.edits if e.form == "module" and e.rewrite == "activation"}
    names = [n for n, _ in pair.original.named_modules(remove_duplicate=False)]
    # The packed projection of an attention is no module of the original's: it becomes one, without keys.
    projections = {
        f"{p}.in_proj" for p in binarized if isinstance(pair.original.get_submodule(p), nn.MultiheadAttention)
    }
    after = [n for n, _ in pair.student.named_modules(remove_duplicate=False)]
    assert projections <= set(after)
    assert names == [n for n in after if n not in projections]
    replaced = {id(pair.original.get_submodule(p)) for p in (*binarized, *hardtanh)}
    for name, module in pair.original.named_modules(remove_duplicate=False):
        now = pair.student.get_submodule(name)
        if id(module) not in replaced:
            assert type(now) is type(module), name
            fresh = set(vars(now)) - set(vars(module))
            assert fresh <= {"forward", "irnet_plan"}, name
        elif name in hardtanh:
            assert type(now) is Hardtanh
        else:
            family = next(kind for kind in LAYERS if isinstance(module, kind))
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
