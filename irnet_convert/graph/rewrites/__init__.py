"""Graph rewrites, in the order in which they are applied. A new one is one file and one row here.

Each is a module with two functions and a tuple: ``collect(survey, binary)`` looks and returns
:class:`Findings` without changing anything; ``apply(editor, edit)`` performs one of the edits it found;
``FORMS`` names the forms that its edits have. One that adds to the state dict has ``adds(edit)`` too: the
keys, below the path of the edit's owner.
"""

from collections.abc import Sequence
from types import ModuleType

from irnet_convert.errors import ArgumentError, UnknownNameError, nearest
from irnet_convert.graph.rewrites import (
    activation,
    head_norm,
    padding,
    projection,
    rprelu,
    rsign,
    shortcut,
)

REWRITES: dict[str, ModuleType] = {
    "activation": activation,
    "rprelu": rprelu,
    "padding": padding,
    "projection": projection,
    "shortcut": shortcut,
    "rsign": rsign,
    "head_norm": head_norm,
}

#: What ``rewrites=None`` means.
DEFAULT = ("activation", "shortcut")

#: What a caller may choose from.
CHOICES = (*DEFAULT, "rprelu", "rsign", "head_norm")

#: Two that want the same places.
EXCLUSIVE = ("activation", "rprelu")

#: Applied whatever the caller chooses: without them, zero padding would count as +1, and a layer whose weight
#: its owner applies would stay real.
ALWAYS = ("padding", "projection")


def resolve_rewrites(names: Sequence[str] | None) -> tuple[str, ...]:
    """The rewrites to apply, in order, from what the caller chose (None: the default).

    Raises:
        UnknownNameError: a name is not one of ``CHOICES``.
        ArgumentError: two that want the same places.
    """
    chosen = DEFAULT if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in CHOICES:
            raise UnknownNameError(
                f"rewrite {name!r}",
                expected=nearest(str(name), CHOICES),
                mend="choose among these, or none: ()",
            )
    if set(EXCLUSIVE) <= set(chosen):
        raise ArgumentError(
            f"rewrites {', '.join(EXCLUSIVE)}",
            expected="one of them: both put another activation where a ReLU is",
            mend="leave activation out; where RPReLU cannot be, Hardtanh is used anyway",
        )
    return tuple(name for name in REWRITES if name in chosen or name in ALWAYS)
