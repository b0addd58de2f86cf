"""The plan: one Decision with a reason for every layer, and the edits of the graph, as plain data."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from irnet_convert.errors import PolicyError

#: Version of :meth:`Plan.to_dict`'s layout.
PLAN_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one layer, and why.

    Attributes:
        path: the layer's first path in the model.
        kind: its class name before conversion.
        action: "binarize" or "keep".
        weight_bits: 1, or 32 where the layer is kept.
        act_bits: 1, or 32 where activations stay real or the layer is kept.
        positions: subset of {"first", "last"}.
        reason: why, in words.
        roles: subset of policy.ROLES.
        method: the binarization method, None where the layer is kept.
        scale: whether the layer gains a learnable per-channel scale.
        aliases: the layer's other paths, if it is shared.
    """

    path: str
    kind: str
    action: str
    weight_bits: int
    act_bits: int
    positions: frozenset[str]
    reason: str
    roles: frozenset[str] = frozenset()
    method: str | None = None
    scale: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit of the graph.

    Attributes:
        rewrite: key of ``graph.rewrites.REWRITES``.
        form: which of the rewrite's forms.
        owner: path of the module whose forward changes ("" is the model itself); of a module that is
            swapped, the module itself.
        target: path of the child whose call is meant, "" for a functional operator.
        ordinal: the how-manieth such call or operator in the owner's forward.
        channels: of what the edit adds, where it adds parameters per channel and nothing else tells how many.
    """

    rewrite: str
    form: str
    owner: str
    target: str = ""
    ordinal: int = 0
    channels: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that :func:`irnet_convert.binarize` does to one architecture.

    Attributes:
        model: class name of the model.
        decisions: one for every convolution, transposed convolution and linear layer.
        edits: graph edits, in the order in which they are applied.
        added_keys: state-dict keys that the converted model has and the original has not.
        notes: what was asked for and is not possible, with reasons.
        rewrites: names of the rewrites that were asked for.
        traced: owner path → names of the forward arguments that its callers give.
        example: shapes and dtypes of the example input as plain data, or None if it is not plain.
    """

    model: str
    decisions: tuple[Decision, ...]
    edits: tuple[Edit, ...] = ()
    added_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    traced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    example: dict[str, Any] | None = None

    @property
    def binarized(self) -> tuple[Decision, ...]:
        """The decisions that binarize."""
        return tuple(d for d in self.decisions if d.action == "binarize")

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Itself: nothing changes a plan, and every copy of a converted model carries it."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data; :meth:`from_dict` reads it back."""
        data: dict[str, Any] = {
            "version": PLAN_VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
        }
        data["decisions"] = [_plain(d) for d in self.decisions]
        data["edits"] = [_plain(e) for e in self.edits]
        data["traced"] = {owner: list(names) for owner, names in self.traced.items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """A plan from :meth:`to_dict`'s data.

        Raises:
            PolicyError: the data is malformed or of another version.
        """
        try:
            if data["version"] != PLAN_VERSION:
                raise _malformed(f"version {data['version']!r}")
            decisions = tuple(
                Decision(**{**d, "positions": frozenset(d["positions"]), "roles": frozenset(d["roles"]),
                            "aliases": tuple(d["aliases"])})
                for d in data["decisions"]
            )  # fmt: skip
            return cls(
                model=data["model"], decisions=decisions, edits=tuple(Edit(**e) for e in data["edits"]),
                added_keys=tuple(data["added_keys"]), notes=tuple(data["notes"]),
                rewrites=tuple(data["rewrites"]),
                traced={o: tuple(n) for o, n in data["traced"].items()}, example=data["example"],
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise _malformed(f"{type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=150).print(self.__rich__())
        return "\n".join([out.getvalue().rstrip(), *(f"note: {n}" for n in self.notes)])

    def __rich__(self) -> Table:
        binary = self.binarized
        edits = ", ".join(f"{sum(e.rewrite == r for e in self.edits)} {r}" for r in _in_order(self.edits))
        table = Table(
            title=f"{self.model}: {len(binary)} of {len(self.decisions)} layers binarized"
            + (f"; edits: {edits}" if edits else ""),
            title_justify="left",
        )
        for column in ("layer", "kind", "action", "W/A", "position", "why"):
            table.add_column(column, overflow="fold")
        for d in self.decisions:
            style = "green" if d.action == "binarize" else None
            bits = f"{d.weight_bits}/{d.act_bits}"
            table.add_row(
                d.path, d.kind, d.action, bits, ", ".join(sorted(d.positions)), d.reason, style=style
            )
        return table


def _in_order(edits: tuple[Edit, ...]) -> list[str]:
    return list(dict.fromkeys(e.rewrite for e in edits))


def _plain(item: Decision | Edit) -> dict[str, Any]:
    values = {f.name: getattr(item, f.name) for f in fields(item)}
    return {k: sorted(v) if isinstance(v, frozenset) else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()}  # fmt: skip


def _malformed(what: str) -> PolicyError:
    return PolicyError(
        f"a saved plan is malformed: {what}", expected=f"what Plan.to_dict writes, version {PLAN_VERSION}",
        mend="plan the model again, or use the version of irnet-convert that wrote it",
    )  # fmt: skip
