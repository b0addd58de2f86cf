"""Graph rewrites, in the order in which they are applied. A new one is one file and one row here.

Each is a module with two functions and a tuple: ``collect(survey, binary)`` looks and returns
:class:`Findings` without changing anything; ``apply(editor, edit)`` performs one of the edits it found;
``FORMS`` names the forms that its edits have. One that adds to the state dict has ``adds(edit)`` too: the
keys, below the path of the edit's owner.
"""

from types import ModuleType

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
