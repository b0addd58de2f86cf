"""Losses that pull a student towards its teacher: on logits, on features, on attention maps.

Every loss is a plain function of tensors; :class:`DistillLoss` adds them up by the recipe's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.errors import ModelError, UnknownNameError, nearest
from irnet_convert.recipe import DistillSpec


def kl_logits(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), averaged over the batch.

    The factor T² keeps the gradient's magnitude independent of T: each softmax contributes a factor
    1/T to the derivative by the logits (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.1).

    Args:
        student: logits, (N, K), any float dtype.
        teacher: logits, (N, K); no gradient flows into them.
        temperature: T > 0.

    Returns:
        A scalar; 0 exactly where both distributions agree.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def attention_map(features: Tensor) -> Tensor:
    """Where a layer looks: Σ over channels of |A|², flattened and normalised to length 1.

    F_sum² of Zagoruyko & Komodakis 2017 (arXiv 1612.03928, section 3.1), divided by its own length as in
    their equation (2).

    Args:
        features: (N, C, H, W), or tokens (N, L, C).

    Returns:
        (N, H·W), or (N, L).

    Raises:
        ModelError: the features have another number of dimensions.
    """
    if features.ndim not in (3, 4):
        raise ModelError(
            f"attention transfer was given features of shape {tuple(features.shape)}",
            expected="(N, C, H, W) of a convolution or (N, L, C) of tokens",
            mend="name a layer that keeps its positions, or match it with kind: mse",
        )
    channels = 1 if features.ndim == 4 else 2
    return F.normalize(features.square().sum(dim=channels).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the two attention maps, averaged over the batch.

    Zagoruyko & Komodakis 2017, equation (2), with the distance squared so that the gradient exists where
    the maps agree.

    Args:
        student: (N, C, H, W) or (N, L, C).
        teacher: the same with any C; no gradient flows into it.

    Returns:
        A scalar in [0, 2].
    """
    _same_shape("positions", _positions(student), _positions(teacher))
    difference = attention_map(student) - attention_map(teacher.detach())
    return difference.square().sum(dim=1).mean()


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two feature tensors of the same shape; the teacher's gets no gradient."""
    _same_shape("shape", tuple(student.shape), tuple(teacher.shape))
    return F.mse_loss(student, teacher.detach())


FEATURE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": feature_mse,
    "attention": attention_transfer,
}


class FeatureTap:
    """Keeps the outputs of named submodules during a forward pass; a context manager.

    Args:
        model: the network itself, not a wrapper around it.
        names: paths as ``model.named_modules()`` gives them.
        role: what to call the model in an error.

    Raises:
        UnknownNameError: a path that the model does not have, with the nearest ones.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], role: str = "model") -> None:
        modules = dict(model.named_modules())
        names = tuple(dict.fromkeys(names))
        for name in names:
            if name not in modules or name == "":
                raise UnknownNameError(
                    f"the {role} has no layer {name!r} whose features could be matched",
                    expected="the path of a submodule",
                    mend=nearest(name, filter(None, modules)),
                )
        self.features: dict[str, Tensor] = {}
        self._handles = [modules[name].register_forward_hook(self._keeper(name)) for name in names]

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ModelError(
                    f"the layer {name!r} returns a {type(output).__name__}",
                    expected="a layer that returns one tensor",
                    mend="match the features of one of its children",
                )
            self.features[name] = output

        return keep

    def take(self) -> dict[str, Tensor]:
        """The features since the last call, by path; they are let go of here."""
        features, self.features = self.features, {}
        return features

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class DistillLoss:
    """weight · T²KL + task_weight · task loss + Σ weight · feature loss.

    Args:
        spec: the recipe's block.
    """

    def __init__(self, spec: DistillSpec) -> None:
        self.spec = spec
        self.student_layers = tuple(pair.student for pair in spec.features)
        self.teacher_layers = tuple(pair.teacher for pair in spec.features)

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        task: Tensor,
        student_features: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Every part and their weighted sum.

        Args:
            student: logits, (N, K).
            teacher: logits, (N, K).
            task: the task loss, a scalar; part of the sum only as far as ``task_weight`` says.
            student_features: outputs by layer path.
            teacher_features: likewise.

        Returns:
            ``loss`` (the sum), ``distill`` (unweighted T²KL), and ``features`` (weighted sum) if any.

        Raises:
            ModelError: the two networks have different numbers of classes, or features do not fit.
        """
        _same_shape("logits", tuple(student.shape), tuple(teacher.shape))
        parts = {"distill": kl_logits(student, teacher, self.spec.temperature)}
        loss = self.spec.weight * parts["distill"] + self.spec.task_weight * task
        for pair in self.spec.features:
            ours, theirs = _feature(student_features, pair.student), _feature(teacher_features, pair.teacher)
            term = pair.weight * FEATURE_LOSSES[pair.kind](ours, theirs)
            parts["features"] = parts.get("features", torch.zeros_like(term)) + term
        return {"loss": loss + parts.get("features", 0.0), **parts}


def _feature(features: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in features:
        raise ModelError(
            f"the layer {name!r} was not called in the forward pass",
            expected="a layer that every forward pass runs",
            mend="match the features of another layer",
        )
    return features[name]


def _positions(features: Tensor) -> tuple[int, ...]:
    shape = tuple(features.shape)
    return (shape[0], *shape[2:]) if features.ndim == 4 else shape[:2]


def _same_shape(what: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    if student != teacher:
        raise ModelError(
            f"the student's {what} {student} differ from the teacher's {teacher}",
            expected="a teacher and a student that agree in what is compared",
            mend="choose layers of equal resolution (kind: attention allows other channel numbers), "
            "or a teacher with the same classes",
        )
