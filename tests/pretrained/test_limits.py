"""What a construction may take is counted, and stopped before it is taken."""

from __future__ import annotations

import copy
import cProfile
import sys
import threading
from dataclasses import fields

import pytest
import torch
from torch import nn

from irnet_convert.errors import PretrainedError
from irnet_convert.graph.plan import Decision, Edit, Plan
from irnet_convert.pretrained.config import DecisionData, EditData, PlanData
from irnet_convert.pretrained.limits import Budget, counted

BUDGET = Budget(tensors=20, elements=1000, modules=30, calls=20_000)


def _deep() -> None:
    nn.Sequential(*(nn.Identity() for _ in range(100)))


def _swallowing() -> None:
    try:
        torch.zeros(10**12)
    except Exception:
        raise AssertionError("a constructor's own except must not see it") from None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear(100, 100, device="meta"), "elements of one tensor"),
        (
            lambda: nn.ModuleList([nn.Linear(20, 20, device="meta") for _ in range(4)]),
            "elements of parameters",
        ),
        (lambda: [nn.Linear(1, 1) for _ in range(30)], "more than 20 parameters and buffers"),
        (
            lambda: [nn.Module().register_buffer("x", torch.zeros(300)) for _ in range(5)],
            "elements of buffers",
        ),
        (_deep, "more than 30 modules"),
        (lambda: [copy.deepcopy({"a": [i]}) for i in range(10**6)], "more than 20,000 function calls"),
        (lambda: [len("") for _ in range(10**6)], "more than 20,000 function calls"),
        # A terabyte each: what allocates it first does not come back from it.
        (lambda: torch.zeros(10**12), "elements of one tensor"),
        (lambda: torch.ones(10**12, device="cpu"), "elements of one tensor"),
        (lambda: torch.arange(900)[:, None] * torch.arange(900)[None], "elements of one tensor"),
        (lambda: torch.zeros(10).repeat(10**11), "elements of one tensor"),
        (lambda: torch.eye(10**6), "elements of one tensor"),
        (lambda: torch.cat([torch.zeros(900), torch.zeros(900)]), "elements of one tensor"),
        (lambda: torch.tensor([0.0] * 2000), "elements of one tensor"),
        (_swallowing, "elements of one tensor"),
    ],
)
def test_what_takes_too_much_is_stopped(make, said: str) -> None:
    with pytest.raises(PretrainedError, match=said), counted(BUDGET, "it"):
        make()


def test_what_fits_is_let_through_and_everything_is_put_back() -> None:
    before = sys.getprofile()
    with counted(BUDGET, "it"), torch.device("meta"):
        nn.Linear(20, 20)
    assert sys.getprofile() is before
    assert sum(p.numel() for p in nn.Linear(100, 100).parameters()) == 10_100
    with pytest.raises(ZeroDivisionError), counted(BUDGET, "it"):
        1 / 0  # noqa: B018
    assert sys.getprofile() is before
    nn.ModuleList([nn.Linear(40, 40) for _ in range(20)])


def test_a_profiler_of_the_callers_own_stays() -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        with counted(BUDGET, "it"):
            nn.Linear(3, 3)
    finally:
        profiler.disable()
    assert any(
        "linear.py" in entry.code.co_filename
        for entry in profiler.getstats()
        if hasattr(entry.code, "co_filename")
    )


def test_other_threads_are_not_counted() -> None:
    done: list[nn.Module] = []
    thread = threading.Thread(target=lambda: done.append(nn.ModuleList([nn.Linear(9, 9) for _ in range(99)])))
    with counted(BUDGET, "it"):
        thread.start()
        thread.join()
    assert len(done) == 1


def test_values_are_right_inside() -> None:
    with counted(BUDGET, "it"):
        x = torch.linspace(0, 1, 5)
        y = (x[:, None] + x[None]).sum().item()
        z = torch.zeros(3).normal_(generator=torch.Generator().manual_seed(0))
    assert y == 25.0
    assert torch.equal(z, torch.zeros(3).normal_(generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("data", "kind"), [(DecisionData, Decision), (EditData, Edit), (PlanData, Plan)])
def test_the_schema_has_every_field_of_a_plan(data, kind) -> None:
    assert set(data.model_fields) - {"version"} == {field.name for field in fields(kind)}
