"""``plan`` and ``binarize``: the walk from a full-precision model to a binary one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from irnet_convert.errors import ModelError, PolicyError
from irnet_convert.graph.apply import PLAN_ATTRIBUTE, Undo, apply_plan
from irnet_convert.graph.decide import decide
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.prove import prove
from irnet_convert.graph.rewrites import resolve_rewrites
from irnet_convert.graph.survey import survey
from irnet_convert.graph.watch import module_calls_watched
from irnet_convert.layers import BinaryLayer
from irnet_convert.policy import Policy

#: Wrappers by class name: importing them all would cost seconds and some are optional in PyTorch builds.
_WRAPPERS = {
    "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule",
    "DeepSpeedEngine",
}  # fmt: skip


@module_calls_watched()
def plan(
    model: nn.Module,
    policy: Policy | str | None = None,
    *,
    example_input: Any = None,
    rewrites: Sequence[str] | None = None,
) -> Plan:
    """What :func:`binarize` would do to every layer of ``model``, and why. Nothing is changed.

    Args:
        model: a full-precision model.
        policy: a Policy, the name of a preset, or None for "irnet", the paper's choice.
        example_input: a tensor, a tuple of positional arguments or a dict of keyword arguments with which
            the model can be called; left out, timm's ``pretrained_cfg`` or what is known of torchvision's
            models decides.
        rewrites: names out of ("activation", "shortcut", "rprelu", "rsign", "head_norm"); None for the first
            two. docs/rewrites.md says what each does.

    Returns:
        A Plan; printing it shows a table.

    Raises:
        ModelError: the model is wrapped for distributed training, or already binary.
        RecordError: the model does not run on the example input, or needs one.
        PolicyError: a rule is malformed or matches no layer.
        UnknownNameError: an unknown preset, method or rewrite.
    """
    _check_convertible(model)
    chosen = _policy(policy)
    resolve_rewrites(rewrites)
    return decide(survey(model, example_input), chosen, rewrites)


@module_calls_watched()
def binarize(
    model: nn.Module,
    policy: Policy | str | None = None,
    *,
    example_input: Any = None,
    rewrites: Sequence[str] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Convert ``model`` to an IR-Net binary network (Qin et al., CVPR 2020).

    The model is run once to record its data flow, planned, and changed layer by layer; every object in the
    module tree that is not a converted layer or activation stays what it was. The full-precision
    checkpoint's keys stay valid; what is added is listed in ``plan_of(result).added_keys``.

    Args:
        model: a full-precision model; it is left as it was unless ``inplace``.
        policy: a Policy, the name of a preset, or None for "irnet", the paper's choice.
        example_input: see :func:`plan`.
        rewrites: names out of ("activation", "shortcut", "rprelu", "rsign", "head_norm"); None for the first
            two. docs/rewrites.md says what each does.
        inplace: convert the model itself instead of a copy. Parameters are moved, never held twice.

    Returns:
        The converted model, in the given model's mode and on its device.

    Raises:
        ModelError: the model is wrapped, already binary, or cannot be copied.
        RecordError: the model does not run on the example input, or needs one.
        PolicyError: a rule is malformed or matches no layer, or no layer would be binarized.
        RewriteError: the converted model failed its proof.
        UnknownNameError: an unknown preset, method or rewrite.
    """
    _check_convertible(model)
    chosen = _policy(policy)
    resolve_rewrites(rewrites)
    found = survey(model, example_input)
    made = decide(found, chosen, rewrites)
    if not made.binarized:
        kept = [*sorted({d.reason for d in made.decisions}), *made.notes]
        raise PolicyError(
            f"no layer of {type(model).__name__} would be binarized: {'; '.join(kept) or 'it has no layer'}",
            expected="a policy and a model with at least one layer to binarize",
            mend="print(irnet_convert.plan(model)), with the same example_input, shows the reason for each "
            "layer; adapt the policy, or the model's forward",
        )
    target = model if inplace else _copied(model)
    with Undo() as undo:
        apply_plan(target, made, undo, found.traces)
        prove(target, made, found)
    return target


def plan_of(model: nn.Module) -> Plan:
    """The plan by which ``model`` was converted.

    Raises:
        ModelError: the model was not made by :func:`binarize`.
    """
    found = getattr(model, PLAN_ATTRIBUTE, None)
    if not isinstance(found, Plan):
        raise ModelError(
            f"{type(model).__name__} carries no plan", expected="a model made by irnet_convert.binarize",
            mend="pass the object that binarize returned, without a wrapper around it",
        )  # fmt: skip
    return found


def is_binarized(model: nn.Module) -> bool:
    """Whether ``model`` holds at least one binary layer."""
    return any(isinstance(m, BinaryLayer) for m in model.modules())


def to_dense(model: nn.Module) -> nn.Module:
    """A copy with plain layers that hold the ±2^s weights and an explicit sign, for other exporters.

    Args:
        model: made by :func:`binarize`.

    Returns:
        A copy whose outputs equal the model's; it has no latents and cannot be trained further.

    Raises:
        ModelError: the model holds no binary layer.
    """
    if not is_binarized(model):
        raise ModelError(
            f"{type(model).__name__} holds no binary layer",
            expected="a model made by irnet_convert.binarize",
            mend="convert it first: irnet_convert.binarize(model)",
        )  # fmt: skip
    if isinstance(model, BinaryLayer):
        return model.to_dense()
    dense = _copied(model)
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(dense.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, BinaryLayer):
                if child not in made:
                    made[child] = child.to_dense()
                parent._modules[name] = made[child]
    vars(dense).pop(PLAN_ATTRIBUTE, None)
    return dense


def _policy(policy: Policy | str | None) -> Policy:
    if policy is None:
        return Policy.preset("irnet")
    if isinstance(policy, str):
        return Policy.preset(policy)
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"policy is a {type(policy).__name__}", expected="a Policy, the name of a preset, or None",
            mend="Policy([Rule(...), ...]), Policy.from_dict(plain data) or Policy.load(YAML file)",
        )  # fmt: skip
    return policy


def _check_convertible(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}", expected="a torch.nn.Module",
            mend="build it first, for example timm.create_model('resnet18')",
        )  # fmt: skip
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the model is a {type(model).__name__}", expected="a module in Python, before torch.jit",
            mend="convert the model that was scripted or traced",
        )  # fmt: skip
    kind = next((c.__name__ for c in type(model).__mro__ if c.__name__ in _WRAPPERS), None)
    if kind or type(model).__name__.startswith("FSDP"):
        raise ModelError(
            f"the model is wrapped in {kind or type(model).__name__}", expected="the model itself",
            mend="convert first and wrap afterwards: binarize(model), then DDP, FSDP or torch.compile",
        )  # fmt: skip
    if is_binarized(model) or hasattr(model, PLAN_ATTRIBUTE):
        raise ModelError(
            f"{type(model).__name__} is already binary", expected="a full-precision model",
            mend="convert the original model anew with the policy that you want",
        )  # fmt: skip


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}",
            expected="a model that copy.deepcopy can copy",
            mend="pass inplace=True, or remove what cannot be copied",
        ) from error  # fmt: skip
