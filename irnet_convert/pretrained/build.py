"""A network from its architecture and its plan, without weights; first on the meta device, within bounds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import nn

from irnet_convert.errors import IrnetError, ModelError, PretrainedError
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.replay import replay
from irnet_convert.networks import create_model
from irnet_convert.networks.origin import Origin
from irnet_convert.pretrained.config import Config
from irnet_convert.pretrained.limits import Budget, counted
from irnet_convert.pretrained.states import check_states
from irnet_convert.pretrained.stored import Stored
from irnet_convert.recipe import ModelSpec
from irnet_convert.weights import differences

#: Dtypes to which a network can be cast as a whole.
CASTS = {str(dtype).removeprefix("torch."): dtype for dtype in
         (torch.float64, torch.float32, torch.float16, torch.bfloat16)}  # fmt: skip


def construct(name: str, origin: Origin, plan: Plan | None, dtype: str) -> nn.Module:
    """The network that ``origin`` names, converted by ``plan``, cast, with arbitrary weights.

    Raises:
        IrnetError: the arguments, or the plan, do not fit.
    """
    model = create_model(ModelSpec(name=name, kwargs=dict(origin.kwargs)))
    if plan is not None:
        replay(model, plan)
    return model.to(CASTS[dtype])


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """What ``make`` makes, parameters on the meta device, and everything else too where that is possible.

    Raises:
        IrnetError: of ``make``.
    """
    with quiet():
        try:
            with torch.device("meta"):
                return make()
        except ModelError:  # torchvision's RegNet computes its widths with tensors
            with init_empty_weights():
                return make()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, no warnings: those of libraries about constructors that the caller has no part in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(config: Config, stored: Stored, where: str) -> nn.Module:
    """The network of a config, with arbitrary weights, and nothing made that its file does not hold.

    Args:
        config: from anybody.
        stored: the weights beside it, which say how large it may be.
        where: what to call the model in an error.

    Returns:
        It, in training mode, on the CPU; the random number generators are where they were.

    Raises:
        PretrainedError: it would be larger than its file, or other than it.
        IrnetError: the arguments or the plan do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            plan = config.the_plan()
            make = _maker(config, plan)
            with counted(Budget.for_file(len(stored.entries), stored.elements), where):
                trial = on_meta(make)
            check_fits(trial, stored, where)
            check_states(trial, config.binary_layers)
            with quiet():
                return make()
        except IrnetError:
            raise
        except Exception as error:  # data that passed the schema may still break what was never meant for it
            raise PretrainedError(
                f"{where} cannot be built: {type(error).__name__}: {str(error)[:200]}",
                expected="the architecture and the plan that irnet_convert.save_pretrained wrote",
                mend="save the model again, with this version of irnet-convert",
            ) from error


def _maker(config: Config, plan: Plan | None) -> Callable[[], nn.Module]:
    name, kwargs = config.architecture.name, config.architecture.kwargs
    return lambda: construct(name, Origin(name=name, kwargs=kwargs), plan, config.dtype)


def check_fits(model: nn.Module, stored: Stored, where: str) -> None:
    """Refuse weights that are not exactly the model's: key by key, shape by shape, kind by kind.

    Raises:
        PretrainedError: with what is missing, unexpected or different.
    """
    own = model.state_dict()
    problems = differences(
        {key: tuple(value.shape) for key, value in own.items()},
        {key: entry.shape for key, entry in stored.entries.items()},
    )
    kinds = [
        f"{key} as {entry.dtype}, not {own[key].dtype}"
        for key, entry in stored.entries.items()
        if not problems and entry.dtype != own[key].dtype
        and not (entry.dtype.is_floating_point and own[key].is_floating_point())
    ]  # fmt: skip
    if problems or kinds:
        raise PretrainedError(
            f"the weights of {where} are not its architecture's: {'; '.join([*problems, *kinds[:8]])}",
            expected=f"exactly the {len(own)} tensors of this {type(model).__name__}",
            mend="use a model that irnet_convert.save_pretrained wrote; this one was altered",
        )
