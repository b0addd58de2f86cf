"""Whether a model can be built again from a name and arguments, proved before anything of it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from irnet_convert.convert import is_binarized
from irnet_convert.errors import IrnetError, PretrainedError
from irnet_convert.graph.apply import PLAN_ATTRIBUTE
from irnet_convert.graph.plan import Plan
from irnet_convert.networks.origin import Origin, images_of_timm, origin_of, timm_config
from irnet_convert.pretrained.build import CASTS, construct, on_meta
from irnet_convert.pretrained.config import Architecture
from irnet_convert.pretrained.states import KEPT
from irnet_convert.recipe import ModelSpec
from irnet_convert.weights import differences

# What a module may say otherwise after training: it is saved, or has no part in what is computed.
_FREE = {"training", "grad_checkpointing", *KEPT}

# What a module notes in its first forward pass, of the sizes that it meets, and would note again.
_NOTED: dict[type[nn.Module], set[str]] = {MultiScaleRoIAlign: {"scales"}}

_MEND = (
    "pass architecture='timm/NAME', or irnet_convert.recipe.ModelSpec(name=..., kwargs={...}) with the "
    "arguments that the model was made with"
)


def plan_or_none(model: nn.Module) -> Plan | None:
    """The plan by which ``model`` was converted; None for a full-precision one.

    Raises:
        PretrainedError: it is no module, or has binary layers and no plan.
    """
    if not isinstance(model, nn.Module):
        raise PretrainedError(
            f"the model is a {type(model).__name__}",
            expected="a torch.nn.Module",
            mend="pass the model itself",
        )
    plan = getattr(model, PLAN_ATTRIBUTE, None)
    if not isinstance(plan, Plan) and is_binarized(model):
        raise PretrainedError(
            f"{type(model).__name__} has binary layers and carries no plan",
            expected="the model that irnet_convert.binarize returned, without a wrapper around it",
            mend="unwrap it (DDP: model.module; torch.compile: model._orig_mod)",
        )
    return plan if isinstance(plan, Plan) else None


def dtype_of(model: nn.Module) -> str:
    """The name of the dtype that ``model`` was cast to as a whole: that of its first floating parameter.

    Raises:
        PretrainedError: it cannot be saved.
    """
    first = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    name = str(first).removeprefix("torch.")
    if name not in CASTS:
        raise PretrainedError(
            f"{type(model).__name__} is of {first}", expected=", ".join(CASTS), mend="model.float()"
        )
    return name


def proven_origin(model: nn.Module, architecture: ModelSpec | str | None) -> Origin:
    """What ``model`` can be built again from.

    Args:
        model: converted or not.
        architecture: what the caller says; None takes what ``create_model``, ``load`` or
            ``from_pretrained`` kept on the model, or what timm does.

    Raises:
        PretrainedError: it is not known, or what is built from it is not this model.
        UnknownNameError: there is no such architecture.
    """
    origin = _origin(model, architecture)
    plan, dtype = plan_or_none(model), dtype_of(model)
    with torch.random.fork_rng(devices=[]):
        try:
            again = on_meta(lambda: construct(origin.name, origin, plan, dtype))
        except IrnetError as error:
            raise _not_rebuilt(model, origin, error.given) from error
    problem = next(_unlike(model, again), None)
    if problem is not None:
        raise _not_rebuilt(model, origin, problem)
    return origin


def _origin(model: nn.Module, architecture: ModelSpec | str | None) -> Origin:
    known = origin_of(model)
    if architecture is not None:
        spec = _spec(architecture)
        base = known or Origin(name=spec.name, source=_source(model), images=images_of_timm(model))
        return Origin(name=spec.name, kwargs=dict(spec.kwargs), source=base.source, images=base.images,
                      labels=base.labels)  # fmt: skip
    if known is not None:
        _spec(ModelSpec(name=known.name, kwargs=dict(known.kwargs)))
        return known
    name = timm_config(model).get("architecture")
    if not isinstance(name, str):
        raise PretrainedError(
            f"nothing says which architecture this {type(model).__name__} is",
            expected="a model of timm's, or one that irnet_convert made from a name", mend=_MEND,
        )  # fmt: skip
    spec = _spec({"name": f"timm/{name}", "kwargs": _timm_arguments(model, name)})
    return Origin(
        name=spec.name, kwargs=dict(spec.kwargs), source=_source(model), images=images_of_timm(model)
    )


def _timm_arguments(model: nn.Module, name: str) -> dict[str, Any]:
    """Arguments of timm's factory: those that it was given, and those that it took from its configuration.

    The configuration of some weights (of a tag, of a repository on the Hub) has other classes, channels or
    image size than the one that ``name`` alone means.
    """
    usual: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    theirs = _configured(usual.to_dict() if usual is not None else {})
    taken = {key: value for key, value in _configured(timm_config(model)).items() if theirs.get(key) != value}
    return {**taken, **getattr(model, "_model_args", {})}


def _configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's factories take from a configuration where they are not told otherwise."""
    found = {"num_classes": config.get("num_classes"), "global_pool": config.get("global_pool")}
    channels, *size = config.get("input_size") or (None,)
    found["in_chans"] = channels
    found["img_size"] = size if size and config.get("fixed_input_size") else None
    return {key: value for key, value in found.items() if value is not None}


def _spec(given: ModelSpec | str | Mapping[str, Any]) -> ModelSpec:
    """``given`` as a config will hold it."""
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, ModelSpec):
        given = {"name": given.name, "kwargs": dict(given.kwargs)}
    try:
        found = Architecture.model_validate(_plain(given))
    except (ValidationError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PretrainedError(
            f"the architecture {str(given)[:200]}: {why}",
            expected="timm/NAME or torchvision/NAME, and arguments that are plain data", mend=_MEND,
        ) from error  # fmt: skip
    return ModelSpec(name=found.name, kwargs=found.kwargs)


def _source(model: nn.Module) -> str | None:
    """Timm's name on the Hub of the weights that its configuration of this model speaks of."""
    hub = timm_config(model).get("hf_hub_id")
    return f"hf-hub:{hub}" if isinstance(hub, str) and hub else None


def _unlike(model: nn.Module, again: nn.Module) -> Iterator[str]:
    """In what ``again`` is not ``model``, values of tensors aside, in words."""
    own, other = model.state_dict(), again.state_dict()
    for key, value in own.items():
        if not isinstance(value, Tensor):
            yield f"{key} of its state is a {type(value).__name__}, no tensor"
            return
    yield from differences(
        {k: tuple(v.shape) for k, v in other.items()}, {k: tuple(v.shape) for k, v in own.items()}
    )
    pairs = dict(again.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        where = path or "the model"
        twin = pairs.pop(path, None)
        if twin is None or type(twin) is not type(module):
            there = f"a {type(twin).__name__}" if twin is not None else "there"
            yield f"{where} is a {type(module).__name__}, not {there}"
            return
        yield from _unlike_module(where, module, twin)
    yield from (f"{path} is not there" for path in pairs)


def _unlike_module(where: str, module: nn.Module, twin: nn.Module) -> Iterator[str]:
    ours, theirs = _settings(module), _settings(twin)
    # What only one has is a caller's note, or a place where a forward pass keeps an object for the next one.
    for name in sorted(ours.keys() & theirs.keys()):
        mine, rebuilt = ours[name], theirs[name]
        if mine != rebuilt and not (mine != mine and rebuilt != rebuilt):
            yield f"{name} of {where} is {mine!r}, and {rebuilt!r} when built anew"


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module's forward may read beside its tensors: plain attributes, hooks, a forward of its own."""
    free = _FREE | _NOTED.get(type(module), set())
    found = {
        name: _plain(value)
        for name, value in vars(module).items()
        if name not in free and not name.startswith("_") and _is_plain(value)
    }
    for name, buffer in module._buffers.items():
        # Not its shape: ConViT keeps a table of positions there, for the size of the last images.
        if name in module._non_persistent_buffers_set and buffer is not None:
            found[f"dtype of {name}"] = buffer.dtype
    found["hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    found["forward"] = type(vars(module).get("forward")).__name__
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Tuples as lists, at every level, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _not_rebuilt(model: nn.Module, origin: Origin, problem: str) -> PretrainedError:
    arguments = f" with {dict(origin.kwargs)}" if origin.kwargs else ""
    return PretrainedError(
        f"{origin.name}{arguments} does not give this {type(model).__name__} again: {problem}",
        expected="an architecture and arguments that build the model as it is, values of tensors aside",
        mend=_MEND,
    )
