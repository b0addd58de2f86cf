"""One rule of a policy, and what it can ask about a layer. Pure data and matching."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from irnet_convert.binary import METHODS
from irnet_convert.errors import PolicyError, UnknownNameError, nearest, shown
from irnet_convert.patterns import MAX_LENGTH, SECONDS, Patience, problem_of

ACTIONS = ("keep", "binarize")
POSITIONS = ("first", "last")
ROLES = ("downsample", "depthwise", "squeeze_excite", "constant_fed")


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """What rules can ask about one layer.

    Attributes:
        paths: every path of the layer in the model.
        kinds: names of the layer's class and of its bases, such as ("Conv2dSame", "Conv2d").
        positions: subset of {"first", "last"}, by data flow.
        roles: subset of :data:`ROLES`, by data flow (depthwise: by the layer's groups).
        kernel_size: of a convolution, else ().
        groups: of a convolution, else 1.
        in_channels, out_channels: channels, or features of a linear layer.
    """

    paths: tuple[str, ...]
    kinds: tuple[str, ...]
    positions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    kernel_size: tuple[int, ...] = ()
    groups: int = 1
    in_channels: int
    out_channels: int


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule. It matches a layer if every predicate that is set holds; without any it matches all.

    Attributes:
        action: "keep" (full precision) or "binarize".
        name: glob over the layer's path (``layer4.*``; ``*`` crosses dots), or ``re:`` and a regular
            expression that must match the whole path.
        kind: class name of the layer or of one of its bases (``Conv2d``, ``Linear``, ``StdConv2d``).
        position: "first" or "last".
        role: one of :data:`ROLES`.
        kernel_size: of a convolution; one number stands for all dimensions.
        groups: exact number of groups.
        min_channels: the smaller of input and output channels is at least this.
        method: row of ``irnet_convert.binary.METHODS``.
        weight_bits: 1.
        act_bits: 1 (W1A1) or 32 (W1A32: activations stay real).
        scale: whether the layer gains a learnable scale for each output channel; None: where no normalisation
            follows it. A family with a factor per channel of its own (ScaledStdConv2d) never does.
        optional: the rule may match nothing; presets' rules do. A user's rule that matches nothing is
            an error.

    Raises:
        PolicyError: a field is malformed.
        UnknownNameError: the method is not known.
    """

    action: str
    name: str | None = None
    kind: str | None = None
    position: str | None = None
    role: str | None = None
    kernel_size: int | tuple[int, ...] | None = None
    groups: int | None = None
    min_channels: int | None = None
    method: str = "irnet"
    weight_bits: int = 1
    act_bits: int = 1
    scale: bool | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.kernel_size, list):
            object.__setattr__(self, "kernel_size", tuple(self.kernel_size))
        self._one_of("action", ACTIONS)
        self._one_of("position", (None, *POSITIONS))
        self._one_of("role", (None, *ROLES))
        self._one_of("weight_bits", (1,))
        self._one_of("act_bits", (1, 32))
        self._one_of("scale", (None, False, True))
        self._one_of("optional", (False, True))
        for key in ("name", "kind", "method"):
            self._typed(key, str)
        for key in ("groups", "min_channels"):
            self._typed(key, int)
        sizes = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,)
        if not all(s is None or (type(s) is int and s > 0) for s in sizes):
            raise self._malformed("kernel_size", "a positive number, or a list of them")
        if self.action == "keep":
            for key, default in (("method", "irnet"), ("act_bits", 1), ("scale", None)):
                if getattr(self, key) != default:
                    raise self._malformed(key, "no such field: a rule that keeps a layer says nothing of how")
        if self.method not in METHODS:
            raise UnknownNameError(
                f"rule {self}: method {shown(self.method)}", expected=nearest(str(self.method), METHODS),
                mend="name a row of irnet_convert.binary.METHODS",
            )  # fmt: skip
        self._check_pattern()

    def _one_of(self, key: str, allowed: Sequence[Any]) -> None:
        value = getattr(self, key)
        if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
            raise self._malformed(key, "one of " + ", ".join(repr(a) for a in allowed if a is not None))

    def _typed(self, key: str, kind: type) -> None:
        value = getattr(self, key)
        if value is not None and type(value) is not kind:
            raise self._malformed(key, f"a {kind.__name__}")

    def _malformed(self, key: str, expected: str) -> PolicyError:
        return PolicyError(
            f"rule field {key} is {shown(getattr(self, key))}",
            expected=expected,
            mend=f"correct {key} in the rule",
        )

    def _check_pattern(self) -> None:
        if self.name is None:
            return
        if not self.name.startswith("re:"):
            problem = f"it is longer than {MAX_LENGTH} characters" if len(self.name) > MAX_LENGTH else None
        else:
            problem = problem_of(self.name[3:])
        if problem is not None:
            raise PolicyError(
                f"rule name {self.name[:MAX_LENGTH]!r} is no glob or regular expression: {problem}",
                expected="re: followed by a regular expression over the layer's path, or a glob",
                mend="correct the expression; a glob such as layer4.* needs no escaping",
            )

    def matches(self, layer: LayerInfo, patience: Patience | None = None) -> bool:
        """Whether every predicate that is set holds for ``layer``.

        Args:
            layer: what is known of it.
            patience: time that regular expressions may take; one for all of a policy's rules.

        Raises:
            PolicyError: the time is over.
        """
        patience = patience or Patience()
        kernel = self.kernel_size
        if isinstance(kernel, int):
            kernel = (kernel,) * len(layer.kernel_size)
        return (
            (self.name is None or any(self._matches_name(path, patience) for path in layer.paths))
            and (self.kind is None or self.kind in layer.kinds)
            and (self.position is None or self.position in layer.positions)
            and (self.role is None or self.role in layer.roles)
            and (kernel is None or (layer.kernel_size != () and kernel == layer.kernel_size))
            and (self.groups is None or self.groups == layer.groups)
            and (self.min_channels is None or min(layer.in_channels, layer.out_channels) >= self.min_channels)
        )

    def _matches_name(self, path: str, patience: Patience) -> bool:
        assert self.name is not None
        if not self.name.startswith("re:"):
            return fnmatch.fnmatchcase(path, self.name)
        try:
            return patience.matches(self.name[3:], path)
        except TimeoutError as error:
            raise PolicyError(
                f"rule name {self.name!r}, on {path!r}: its policy's names took more than {SECONDS} s",
                expected="an expression that matches in linear time",
                mend="simplify the expression (nested repetitions are slow), or use a glob",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain data."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rule:
        """A rule from plain data.

        Raises:
            PolicyError: not a mapping, an unknown key, or no action.
        """
        if not isinstance(data, Mapping):
            raise PolicyError(
                f"a rule is {shown(data)}", expected="a mapping such as {action: keep, name: layer4.*}",
                mend="write each rule as a list item with key: value lines",
            )  # fmt: skip
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise PolicyError(
                    f"rule key {key!r}", expected=nearest(str(key), known), mend="rename the key"
                )
        if "action" not in data:
            raise PolicyError(
                f"rule {shown(dict(data))} has no action",
                expected="action: keep or action: binarize",
                mend="add it",
            )
        return cls(**data)

    def __str__(self) -> str:
        return "{" + ", ".join(f"{k}: {str(v)[:100]}" for k, v in self.to_dict().items()) + "}"
