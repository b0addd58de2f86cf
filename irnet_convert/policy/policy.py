"""An ordered list of rules, and the lists that have a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irnet_convert.errors import IrnetError, PolicyError, RecipeError, UnknownNameError, nearest, shown
from irnet_convert.patterns import Patience, check_total
from irnet_convert.plain_yaml import dump_yaml, load_yaml
from irnet_convert.policy.rule import POSITIONS, ROLES, LayerInfo, Rule


@dataclass(frozen=True)
class Policy:
    """An ordered list of rules; the first that matches decides. A layer that no rule matches is kept.

    Example:
        >>> policy = Policy([Rule(action="keep", name="layer4.*"), *Policy.preset("irnet")])
        >>> policy.rules[0].to_dict()
        {'action': 'keep', 'name': 'layer4.*'}
    """

    rules: tuple[Rule, ...]
    _patience: ClassVar[Patience]  # of the instance; no field, as it has no part in equality

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        object.__setattr__(self, "rules", tuple(rules))
        object.__setattr__(self, "_patience", Patience())
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise PolicyError(
                    f"a policy's item is {rule!r}",
                    expected="Rule(...)",
                    mend="build it with Rule or Rule.from_dict",
                )

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def decide(self, layer: LayerInfo) -> Rule | None:
        """The first rule that matches ``layer``, or None."""
        return next((rule for rule in self.rules if rule.matches(layer, self._patience)), None)

    def check_all_match(self, layers: Sequence[LayerInfo]) -> None:
        """Refuse a rule that matches no layer, unless it is optional.

        Raises:
            PolicyError: with the layer names or kinds nearest to what the rule asks for.
        """
        for rule in self.rules:
            if rule.optional or any(rule.matches(layer, self._patience) for layer in layers):
                continue
            names = [p for layer in layers for p in layer.paths]
            kinds = [k for layer in layers for k in layer.kinds]
            hint = nearest(rule.name, names) if rule.name else nearest(rule.kind, kinds) if rule.kind else ""
            raise PolicyError(
                f"rule {rule} matches no layer of this model",
                expected="a rule that matches at least one layer" + (f"; {hint}" if hint else ""),
                mend="correct it (irnet-convert plan MODEL lists names and kinds), or set optional=True",
            )

    @classmethod
    def preset(cls, name: str) -> Policy:
        """A policy by name: one of :data:`PRESETS`.

        Raises:
            UnknownNameError: there is no such preset.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise UnknownNameError(
                f"policy preset {shown(name)}",
                expected=nearest(str(name), PRESETS),
                mend="name a preset, or pass a Policy: Policy.load(FILE) reads a YAML file; a recipe has the "
                "file's rules under policy:",
            )
        return PRESETS[name]

    def to_dict(self) -> list[dict[str, Any]]:
        """The rules as plain data, ready for YAML or JSON."""
        return [rule.to_dict() for rule in self.rules]

    @classmethod
    def from_dict(cls, data: str | Sequence[Mapping[str, Any]]) -> Policy:
        """A policy from a preset's name or a list of rule mappings.

        Raises:
            PolicyError: with every item that is malformed, counted from 0.
            UnknownNameError: ``data`` is a name that no preset has.
        """
        if isinstance(data, str):
            return cls.preset(data)
        if not isinstance(data, Sequence):
            raise PolicyError(
                f"a policy is {shown(data)}", expected="the name of a preset or a list of rules",
                mend="write the rules as a YAML list",
            )  # fmt: skip
        rules, problems = list[Rule](), dict[int, IrnetError]()
        names = [item.get("name") for item in data if isinstance(item, Mapping)]
        check_total(name[3:] for name in names if isinstance(name, str) and name.startswith("re:"))
        for number, item in enumerate(data):
            try:
                rules.extend(cls._rules_of(item))
            except (PolicyError, UnknownNameError) as error:
                problems[number] = error
        if problems:
            raise PolicyError(
                "; ".join(f"item {number}: {error.given}" for number, error in problems.items()),
                expected="; ".join(dict.fromkeys(error.expected for error in problems.values())),
                mend="; ".join(dict.fromkeys(error.mend for error in problems.values())),
            )
        return cls(rules)

    @classmethod
    def _rules_of(cls, item: Any) -> Iterable[Rule]:
        """One rule, or those of a preset."""
        if not isinstance(item, Mapping) or "preset" not in item:
            return [Rule.from_dict(item)]
        if len(item) > 1:
            raise PolicyError(
                f"{shown(dict(item))}, a preset with further keys",
                expected="a preset alone, as in {preset: irnet}",
                mend="write rules of your own in front of it; the first that matches a layer decides",
            )
        return cls.preset(item["preset"])

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """A policy from a YAML file. Raises PolicyError if the file is missing or malformed."""
        try:
            data = load_yaml(Path(path).read_bytes(), source=str(path))
        except (OSError, RecipeError) as error:
            raise PolicyError(
                f"policy file {str(path)!r}: {error}",
                expected="a YAML file with a list of rules",
                mend="see docs/policies.md for an example",
            ) from error
        try:
            return cls.from_dict(data)
        except PolicyError as error:
            raise PolicyError(
                f"policy file {str(path)!r}: {error.given}", expected=error.expected, mend=error.mend
            ) from error

    def dump(self, path: str | Path) -> None:
        """Write the policy as YAML."""
        Path(path).write_text(dump_yaml(self.to_dict()), encoding="utf-8")


def _paper(act_bits: int) -> Policy:
    keep = [
        *(Rule(action="keep", position=p, optional=True) for p in POSITIONS),
        *(Rule(action="keep", role=r, optional=True) for r in ROLES),
    ]
    return Policy([*keep, Rule(action="binarize", act_bits=act_bits, optional=True)])


#: Presets by name. "irnet": the paper's W1A1 (first and last layers and 1×1 downsample convolutions stay
#: full precision), with depthwise, squeeze-excite and constant-fed layers kept too. "irnet_w1a32": the same
#: layers with real activations. "interior": like irnet with the roles lifted.
PRESETS: dict[str, Policy] = {
    "irnet": _paper(1),
    "irnet_w1a32": _paper(32),
    "interior": Policy(
        [
            *(Rule(action="keep", position=p, optional=True) for p in POSITIONS),
            Rule(action="keep", role="constant_fed", optional=True),
            Rule(action="binarize", optional=True),
        ]
    ),
}
