"""Graph rewrites, in the order in which they are applied. A new one is one file and one row here.

Each is a module with two functions and a tuple: ``collect(survey, binary)`` looks and returns
:class:`Findings` without changing anything; ``apply(editor, edit)`` performs one of the edits it found;
``FORMS`` names the forms that its edits have.
"""

from types import ModuleType

from irnet_convert.graph.rewrites import activation, padding, projection, shortcut

REWRITES: dict[str, ModuleType] = {
    "activation": activation,
    "padding": padding,
    "projection": projection,
    "shortcut": shortcut,
}

#: What ``rewrites=None`` means, and what a caller may choose from.
DEFAULT = ("activation", "shortcut")

#: Applied whatever the caller chooses: without them, zero padding would count as +1, and a layer whose weight
#: its owner applies would stay real.
ALWAYS = ("padding", "projection")
