"""Policy × Survey → Plan: one Decision with a reason for every layer."""

from __future__ import annotations

from collections.abc import Sequence

from irnet_convert.binary import METHODS
from irnet_convert.graph.plan import Decision, Edit, Plan
from irnet_convert.graph.prove import distrust_wrong_traces
from irnet_convert.graph.rewrites import REWRITES, resolve_rewrites
from irnet_convert.graph.rewrites.common import Findings
from irnet_convert.graph.signs import never_negative
from irnet_convert.graph.survey import Survey
from irnet_convert.layers import binary_class_of
from irnet_convert.policy import LayerInfo, Policy, Rule

_WHY = {
    "first": "first layer",
    "last": "last layer",
    "downsample": "1×1 downsample on a skip",
    "depthwise": "depthwise",
    "squeeze_excite": "squeeze-excite gate",
    "constant_fed": "constant-fed: independent of the input",
}


def decide(survey: Survey, policy: Policy, rewrites: Sequence[str] | None = None) -> Plan:
    """The plan for one model. Nothing is changed.

    Raises:
        PolicyError: a rule matches no layer.
        UnknownNameError: an unknown rewrite.
    """
    names = resolve_rewrites(rewrites)
    policy.check_all_match(list(survey.infos.values()))
    rules = {path: policy.decide(info) for path, info in survey.infos.items()}
    reasons = {path: _why_kept(survey, path, rule) for path, rule in rules.items()}
    while True:
        trial = dict(reasons)
        edits, notes = _settle(survey, rules, trial, names)
        if not distrust_wrong_traces(survey, _owners(survey, edits)):
            reasons = trial
            break
    decisions = tuple(_decision(survey, path, rules[path], reasons[path]) for path in survey.layers)
    return Plan(
        model=type(survey.model).__name__,
        decisions=decisions,
        edits=tuple(edits),
        added_keys=_added_keys(survey, decisions, edits),
        notes=tuple(notes),
        rewrites=names,
        traced={o: tuple(sorted(survey.passed(o))) for o in _owners(survey, edits)},
        example=survey.example.to_dict(),
    )


def _added_keys(survey: Survey, decisions: Sequence[Decision], edits: Sequence[Edit]) -> tuple[str, ...]:
    """Under every path that leads to what gains a parameter or a buffer."""
    scales = [f"{path}.scale" for d in decisions if d.scale for path in (d.path, *d.aliases)]
    adding = [(e, REWRITES[e.rewrite].adds(e)) for e in edits if hasattr(REWRITES[e.rewrite], "adds")]
    places = [(path, keys) for e, keys in adding for path in survey.paths_of(e.owner)]
    return (*scales, *(f"{path}.{key}".lstrip(".") for path, keys in places for key in keys))


def _why_kept(survey: Survey, path: str, rule: Rule | None) -> str | None:
    """Why a layer stays real, before anything is known of its input; None if it may be binarized."""
    if rule is None:
        return "no rule matches"
    if rule.action == "keep":
        return _WHY.get(rule.position or "") or _WHY.get(rule.role or "") or f"rule {rule}"
    found = binary_class_of(survey.layers[path], method=rule.method)
    if isinstance(found, str):
        return found
    if path in survey.tied:
        return f"its weight is also the weight of {survey.tied[path]}"
    elsewhere = survey.read_elsewhere.get(path)
    if survey.record_of(path) is None:
        if elsewhere:
            return f"its weight is read by {elsewhere} while its own forward is never called"
        return "never run: neither in evaluation nor in training mode"
    if elsewhere:
        return f"its weight is also read by {elsewhere}"
    return None


def _settle(
    survey: Survey, rules: dict[str, Rule | None], reasons: dict[str, str | None], names: tuple[str, ...]
) -> tuple[list[Edit], list[str]]:
    """Keep layers whose input cannot be mended, until what is left can all be binarized.

    Each round may only keep more layers, so the loop ends.
    """
    stays: dict[str, None] = {}  # why a layer was kept in an earlier round is still to be said in the last
    while True:
        binary = {p: rule.act_bits for p, rule in rules.items() if rule is not None and reasons[p] is None}
        found = {name: REWRITES[name].collect(survey, binary) for name in names}
        stays.update(dict.fromkeys(found["activation"].notes if "activation" in found else ()))
        blocked = {p: why for f in found.values() for p, why in f.blocked.items()}
        blocked |= _still_non_negative(survey, binary, found.get("activation") or found.get("rprelu"))
        if not blocked:
            edits = [edit for name in names for edit in found[name].edits]
            notes = [note for name in names if name != "activation" for note in found[name].notes]
            return edits, [*stays, *notes]
        for path, why in blocked.items():
            reasons[path] = why


def _still_non_negative(
    survey: Survey, binary: dict[str, int], activation: Findings | None
) -> dict[str, str]:
    blocked = {}
    for i, rec in enumerate(survey.records):
        signs = never_negative(rec, activation.changed[i] if activation else frozenset())
        for path, act_bits in binary.items():
            for call in rec.calls.get(path, ()) if act_bits == 1 else ():
                if call.inputs[0] in signs:
                    source = rec.nodes[min(signs[call.inputs[0]])]
                    where = f"{source.op} in {source.owner or 'the model'}"
                    blocked[path] = f"its input cannot be negative ({where}), so its sign would be constant"
    return blocked


def _decision(survey: Survey, path: str, rule: Rule | None, kept: str | None) -> Decision:
    info: LayerInfo = survey.infos[path]
    layer = survey.layers[path]
    binarize = kept is None and rule is not None
    cls = binary_class_of(layer)
    bare = path in survey.needs_scale
    wanted = rule is not None and (bare if rule.scale is None else rule.scale)
    scale = binarize and wanted and not isinstance(cls, str) and cls.takes_scale
    why = kept or f"{METHODS[rule.method].name} W1A{rule.act_bits}" if rule else kept
    if binarize and (reader := survey.bypassed_by(path)):
        own = reader == (path or "the model")
        why = f"{why}, packed input projection" if own else f"{why}, called where {reader} applied its weight"
    if scale:
        why = f"{why}, scale per channel: {'no normalisation follows' if bare else 'as its rule says'}"
    elif binarize and bare and rule and rule.scale is False:
        why = f"{why}, no scale, though no normalisation follows: as its rule says"
    return Decision(
        path=path,
        kind=type(layer).__name__,
        action="binarize" if binarize else "keep",
        weight_bits=rule.weight_bits if binarize and rule else 32,
        act_bits=rule.act_bits if binarize and rule else 32,
        positions=info.positions,
        reason=why or "",
        roles=info.roles,
        method=rule.method if binarize and rule else None,
        scale=scale,
        aliases=info.paths[1:],
    )


def _owners(survey: Survey, edits: Sequence[Edit]) -> list[str]:
    """Every module whose forward the edits may replace, norms with an activation of their own included."""
    swapped = ("module", "layer")
    owners = dict.fromkeys(e.owner for e in edits if e.form not in swapped and e.rewrite != "projection")
    for edit in edits:
        if edit.form == "identity_norm_act":
            owners.update(dict.fromkeys(n for n in survey.norm_owners if n.rpartition(".")[0] == edit.owner))
    return list(owners)
