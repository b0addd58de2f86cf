"""Proofs by running: that traced forwards do what the originals do, and that a conversion took."""

from __future__ import annotations

from torch import nn

from irnet_convert.errors import RecordError, RewriteError
from irnet_convert.graph.alike import does_the_same, what_happened
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.record import Record, Twin
from irnet_convert.graph.recorder import kinds_in
from irnet_convert.graph.signs import never_negative
from irnet_convert.graph.survey import Survey
from irnet_convert.graph.traced import UntraceableError, distinct, install


def distrust_wrong_traces(survey: Survey, owners: list[str]) -> bool:
    """Run the unedited graphs of ``owners`` beside their forwards and compare what happens, op by op.

    fx can go wrong without a word: ``mask is None`` and ``isinstance(x, Tensor)`` are False for its proxies,
    so a forward may be traced along a branch that the model does not take. An owner whose graph does not do
    what its forward does is marked as untraceable.

    Returns:
        Whether some owner was marked, so that the plan must be made anew.
    """
    suspects = [owner for owner in owners if owner not in survey.verified]
    wrong, unknown = _wrong_alone(survey, suspects)
    wrong += _wrong(survey, unknown) if unknown else []
    for owner in wrong:
        survey.distrust(owner, "its graph does not do what its forward does (a branch on its arguments)")
    survey.verified.update(set(suspects) - set(wrong))
    return bool(wrong)


def _wrong_alone(survey: Survey, owners: list[str]) -> tuple[list[str], list[str]]:
    """Those of ``owners`` whose graphs differ, and those that cannot be run alone."""
    wrong, unknown, alike = [], [], set()
    for owner in owners:
        call = next((r.first_calls[owner] for r in survey.records if owner in r.first_calls), None)
        if call is None or call.varied:
            unknown.append(owner)
            continue
        module = survey.model.get_submodule(owner)
        try:
            graphs = survey.graphs(owner)
            way = (id(graphs), kinds_in((call.args, call.kwargs, [*call.returned.values()])))
            if way in alike:  # another module of the same kind, called in the same way
                continue
            if does_the_same(module, graphs, call, survey.path_of):
                alike.add(way)
            else:
                wrong.append(owner)
        except Exception:  # it reads a child's weight, or does more in training mode: run the whole model
            unknown.append(owner)
    return wrong, unknown


def _wrong(survey: Survey, owners: list[str]) -> list[str]:
    """Those of ``owners`` inside which a run of the whole model with their graphs differs from the recorded
    one, in either mode.

    If a graph breaks the run, the owners are halved until the broken ones are alone.
    """
    wrong: set[str] = set()
    for before in (survey.records[0], survey.in_training):
        after = _run_with_graphs(survey, owners, before.training) if before is not None else None
        if before is not None and after is None:
            return (
                owners if len(owners) == 1 else [o for half in _halves(owners) for o in _wrong(survey, half)]
            )
        if before is not None and after is not None:
            wrong |= {o for o in owners if what_happened(before, o) != what_happened(after, o)}
    return [o for o in owners if o in wrong]


def _halves(items: list[str]) -> tuple[list[str], list[str]]:
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _run_with_graphs(survey: Survey, owners: list[str], training: bool) -> Record | None:
    modules = [survey.model.get_submodule(owner) for owner in owners]
    try:
        for owner, module in zip(owners, modules, strict=True):
            install(module, survey.graphs(owner))
        return survey.record(survey.model, training=training)
    except (RecordError, UntraceableError):
        return None
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def prove(model: nn.Module, plan: Plan, survey: Survey) -> None:
    """Run the converted model and check what the plan promised.

    Where the model was recorded in training mode too (a detector that finds no box calls some layers there
    alone), it is run so again, unless that can say nothing new: all binarized layers were called in
    evaluation mode, the shapes of outputs hang on the data, and no edited forward has a graph of its own for
    training. (What signs layers receive in training mode was asked of the recording when the plan was made.)

    Raises:
        RewriteError: a replaced layer was not called, receives an input that cannot be negative, or the
            model's outputs have other shapes than before.
    """
    called: set[str] = set()
    twin, free = Twin(model), _depends_on_data(survey)
    traces = survey.traces
    alike = all(owner in traces and len(distinct(traces[owner])) == 1 for owner in plan.traced)
    for before in survey.records:
        if free and alike and called.issuperset(d.path for d in plan.binarized):
            break
        after = survey.record(model, training=before.training, twin=twin)
        called |= {path for path, calls in after.calls.items() if not any(c.bypassed for c in calls)}
        signs = never_negative(after)
        for d in plan.binarized:
            if d.act_bits == 1 and any(c.inputs[0] in signs for c in after.calls.get(d.path, ())):
                raise _failed(f"{d.path} receives an input that cannot be negative")
        shapes = [sorted(r.shapes[v] for v in r.outputs) for r in (before, after)]
        if shapes[0] != shapes[1] and not free:
            raise _failed(f"the outputs' shapes changed from {shapes[0]} to {shapes[1]}")
    for d in plan.binarized:
        if d.path not in called:
            raise _failed(f"{d.path} was never called")


def _depends_on_data(survey: Survey) -> bool:
    """Detectors return as many boxes as they find."""
    return any(n.op in ("nms", "nonzero", "topk") for n in survey.records[0].nodes)


def _failed(what: str) -> RewriteError:
    return RewriteError(
        f"the converted model failed its proof: {what}",
        expected="every binarized layer called, on inputs of both signs",
        mend="keep the layer by a rule (Rule(action='keep', name=...)) and please report the model",
    )
