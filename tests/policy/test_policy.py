"""Rules: what they match, what they refuse, and how they are written down."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.std_conv import ScaledStdConv2d
from torch import nn

from irnet_convert import BinaryConv2d, binarize
from irnet_convert.convert import plan
from irnet_convert.errors import IrnetError, PolicyError, UnknownNameError
from irnet_convert.policy import PRESETS, ROLES, LayerInfo, Policy, Rule


def info(path: str = "layer1.0.conv1", **changes: Any) -> LayerInfo:
    values: dict[str, Any] = {
        "paths": (path,), "kinds": ("Conv2dSame", "Conv2d"), "kernel_size": (3, 3), "groups": 1,
        "in_channels": 16, "out_channels": 32,
    }  # fmt: skip
    return LayerInfo(**{**values, **changes})


LINEAR = info("head.fc", kinds=("Linear",), kernel_size=())


@pytest.mark.parametrize(
    ("predicates", "layer", "matches"),
    [
        ({}, info(), True),
        ({"name": "layer1.0.conv1"}, info(), True),
        ({"name": "layer1.*"}, info(), True),
        ({"name": "*.conv?"}, info(), True),
        ({"name": "layer1"}, info(), False),
        ({"name": "LAYER1.*"}, info(), False),
        ({"name": "layer[23].*"}, info(), False),
        ({"name": r"re:layer\d\.\d+\.conv1"}, info(), True),
        ({"name": "re:layer1"}, info(), False),
        ({"name": "other"}, info(paths=("layer1", "other")), True),
        ({"kind": "Conv2d"}, info(), True),
        ({"kind": "Conv2dSame"}, info(), True),
        ({"kind": "Conv2dSame"}, info(kinds=("Conv2d",)), False),
        ({"kind": "Linear"}, info(), False),
        ({"position": "first"}, info(positions=frozenset({"first", "last"})), True),
        ({"position": "last"}, info(positions=frozenset({"first"})), False),
        ({"role": "depthwise"}, info(roles=frozenset({"depthwise"})), True),
        ({"role": "downsample"}, info(), False),
        ({"kernel_size": 3}, info(), True),
        ({"kernel_size": [3, 3]}, info(), True),
        ({"kernel_size": (3, 1)}, info(), False),
        ({"kernel_size": 1}, LINEAR, False),
        ({"groups": 1}, info(), True),
        ({"groups": 2}, info(), False),
        ({"min_channels": 16}, info(), True),
        ({"min_channels": 17}, info(), False),
        ({"kind": "Conv2d", "kernel_size": 3, "min_channels": 64}, info(), False),
    ],
)
def test_predicates(predicates: dict[str, Any], layer: LayerInfo, matches: bool) -> None:
    assert Rule(action="keep", **predicates).matches(layer) is matches


def test_first_match_wins() -> None:
    special, rest = Rule(action="keep", name="layer1.*"), Rule(action="binarize")
    assert Policy([special, rest]).decide(info()) is special
    assert Policy([rest, special]).decide(info()) is rest
    assert Policy([special]).decide(LINEAR) is None


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 2)
    )


X = torch.zeros(1, 3, 8, 8)


def actions(policy: Policy | str) -> list[str]:
    return [d.action for d in plan(small(), policy, example_input=X).decisions]


def test_a_rule_without_predicates_takes_first_and_last_too() -> None:
    assert actions(Policy([Rule(action="binarize")])) == ["binarize"] * 3
    assert actions(Policy([Rule(action="keep")])) == ["keep"] * 3
    assert actions("irnet") == ["keep", "binarize", "keep"]
    assert actions(Policy([Rule(action="binarize", position="last"), *Policy.preset("irnet")])) == [
        "keep", "binarize", "binarize",
    ]  # fmt: skip


def test_layers_that_no_rule_matches_are_kept_with_that_reason() -> None:
    decisions = plan(small(), Policy([Rule(action="binarize", kind="Linear")]), example_input=X).decisions
    assert [d.action for d in decisions] == ["keep", "keep", "binarize"]
    assert decisions[0].reason == "no rule matches"


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ({"name": "4x"}, "'4'"),
        ({"kind": "Conv3d"}, "'Conv2d'"),
        ({"groups": 7}, ""),
        ({"kernel_size": 5}, ""),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error(rule: dict[str, Any], hint: str) -> None:
    policy = Policy([Rule(action="keep", **rule), *Policy.preset("irnet")])
    with pytest.raises(PolicyError, match="matches no layer") as caught:
        plan(small(), policy, example_input=X)
    assert hint in str(caught.value)
    optional = Policy([Rule(action="keep", optional=True, **rule), *Policy.preset("irnet")])
    assert actions(optional) == actions("irnet")


@pytest.mark.parametrize(("scale", "scaled"), [(None, {"2"}), (True, {"1", "2"}), (False, set())])
def test_scales(scale: bool | None, scaled: set[str]) -> None:
    """Of two binary layers, of which a normalisation follows the first; not of the real ones around them."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(8, 8, 3) for _ in range(4)]
    model = nn.Sequential(convs[0], convs[1], convs[2], convs[3])
    model[1] = nn.Sequential(convs[1], nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 12, 12)
    policy = Policy([Rule(action="keep", position=p) for p in ("first", "last")])
    policy = Policy([*policy, Rule(action="binarize", scale=scale)])
    paths = {"1.0": "1", "2": "2"}
    found = plan(model, policy, example_input=x)
    assert {paths[d.path] for d in found.decisions if d.scale} == scaled
    assert all("scale per channel" in d.reason for d in found.decisions if d.scale)
    assert [d.path for d in found.decisions if "no scale" in d.reason] == (["2"] if scale is False else [])
    student = binarize(model, policy, example_input=x)
    for path, name in paths.items():
        layer = student.get_submodule(path)
        assert isinstance(layer, BinaryConv2d)
        assert (layer.scale is not None) == (name in scaled)
    assert student(x).isfinite().all()


def test_a_family_with_a_gain_has_no_scale_beside_it() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), ScaledStdConv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    policy = Policy([Rule(action="keep", kind="Conv2d", position=p) for p in ("first", "last")])
    policy = Policy([*policy, Rule(action="binarize", scale=True)])
    found = plan(model, policy, example_input=torch.randn(1, 8, 12, 12))
    assert [d.action for d in found.decisions] == ["keep", "binarize", "keep"]
    assert not any(d.scale for d in found.decisions)


def test_presets_may_match_nothing() -> None:
    tiny = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    for name in PRESETS:
        assert len(plan(tiny, name, example_input=torch.zeros(1, 4)).binarized) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rule(action="drop"), ["'drop'", "'keep'"]),
        (lambda: Rule(action="keep", position="middle"), ["middle", "'first'"]),
        (lambda: Rule(action="keep", role="stem"), ["stem", "'downsample'"]),
        (lambda: Rule(action="binarize", method="irnett"), ["irnett", "'irnet'"]),
        (lambda: Rule(action="binarize", method=["irnet"]), ["irnet"]),
        (lambda: Rule(action="binarize", method=None), ["None", "'irnet'"]),
        (lambda: Rule(action="binarize", weight_bits=2), ["2", "1"]),
        (lambda: Rule(action="binarize", act_bits=8), ["8", "32"]),
        (lambda: Rule(action="binarize", act_bits=True), ["True", "32"]),
        (lambda: Rule(action="binarize", scale="auto"), ["auto", "True"]),
        (lambda: Rule(action="keep", name=3), ["3", "str"]),
        (lambda: Rule(action="keep", name="re:("), ["regular expression"]),
        (lambda: Rule(action="keep", kernel_size=0), ["kernel_size"]),
        (lambda: Rule(action="keep", kernel_size="3"), ["kernel_size"]),
        (lambda: Rule(action="keep", groups=1.5), ["groups"]),
        (lambda: Rule.from_dict({"action": "keep", "nmae": "x"}), ["nmae", "'name'"]),
        (lambda: Rule.from_dict({"name": "x"}), ["no action"]),
        (lambda: Rule.from_dict(["keep"]), ["mapping"]),
        (lambda: Rule.from_dict({"action": "keep", 3: 4}), ["3"]),
        (lambda: Policy(["keep"]), ["'keep'"]),
        (lambda: Policy.preset("irnte"), ["irnte", "'irnet'"]),
        (lambda: Policy.from_dict("irnte"), ["'irnet'"]),
        (lambda: Policy.from_dict(3), ["3", "list"]),
        (lambda: Policy.from_dict({"action": "keep"}), ["list"]),
        (lambda: Policy.from_dict([{"preset": "irnte"}]), ["'irnet'"]),
        (lambda: Policy.from_dict([{"preset": 3}]), ["3"]),
        (lambda: Policy.from_dict([None]), ["item 0", "mapping"]),
        (
            lambda: Policy.from_dict([{"preset": "irnet", "scale": True}]),
            ["further keys", "first that matches"],
        ),
        (
            lambda: Policy.from_dict([{"action": "keep"}, {"acton": "keep"}, {"action": "kep"}]),
            ["item 1: rule key 'acton'", "item 2: rule field action is 'kep'", "'action'", "'keep'"],
        ),
        (lambda: Rule(action="keep", scale=True), ["scale", "keeps"]),
        (lambda: Rule(action="keep", act_bits=32), ["act_bits", "keeps"]),
    ],
)
def test_malformed_rules(make: Any, words: list[str]) -> None:
    with pytest.raises((PolicyError, UnknownNameError)) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_a_regular_expression_that_takes_for_ever_is_an_error() -> None:
    rule = Rule(action="keep", name=r"re:(a|aa)+$b?c")
    layer = info("a" * 60)
    start = time.monotonic()
    with pytest.raises(PolicyError, match="took more than"):
        rule.matches(layer)
    assert time.monotonic() - start < 5


names = st.one_of(
    st.none(), st.sampled_from(["layer1.*", "re:a.b", "*", "fc"]), st.text(min_size=1, max_size=8)
)
predicates = {
    "name": names.filter(lambda n: n is None or not n.startswith("re:") or n == "re:a.b"),
    "kind": st.one_of(st.none(), st.sampled_from(["Conv2d", "Linear"])),
    "position": st.sampled_from([None, "first", "last"]),
    "role": st.sampled_from([None, *ROLES]),
    "kernel_size": st.one_of(st.none(), st.integers(1, 7), st.tuples(st.integers(1, 7), st.integers(1, 7))),
    "groups": st.one_of(st.none(), st.integers(1, 64)),
    "min_channels": st.one_of(st.none(), st.integers(1, 512)),
    "optional": st.booleans(),
}
rules = st.builds(Rule, action=st.just("keep"), **predicates) | st.builds(
    Rule,
    action=st.just("binarize"),
    act_bits=st.sampled_from([1, 32]),
    scale=st.sampled_from([None, False, True]),
    **predicates,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(rules, max_size=5))
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, some: list[Rule]) -> None:
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    Policy(some).dump(path)
    assert Policy.load(path) == Policy(some)
    assert Policy.from_dict(Policy(some).to_dict()) == Policy(some)


@pytest.mark.parametrize(
    "text",
    ["[", "3", "action: keep", "- {action: keep, nmae: x}", "- !!python/object/apply:os.getcwd []", "\x00",
     "- {action: keep, action: binarize}", "- {action: keep, name: re:(}"],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(IrnetError):
        Policy.load(path)
    with pytest.raises(PolicyError, match="absent"):
        Policy.load(tmp_path / "absent.yaml")


def test_a_file_may_build_on_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("- {action: keep, name: layer4.*}\n- preset: irnet\n")
    assert Policy.load(path) == Policy([Rule(action="keep", name="layer4.*"), *Policy.preset("irnet")])
