"""Graph rewrites, in the order in which they are applied. A new one is one file and one row here.

Each is a module with two functions and a tuple: ``collect(survey, binary)`` looks and returns
:class:`Findings` without changing anything; ``apply(editor, edit)`` performs one of the edits it found;
``FORMS`` names the forms that its edits have.
"""

from types import ModuleType

from irnet_convert.graph.rewrites import activation, padding, shortcut

REWRITES: dict[str, ModuleType] = {
    "activation": activation,
    "padding": padding,
    "shortcut": shortcut,
}

#: What ``rewrites=None`` means, and what a caller may choose from.
DEFAULT = ("activation", "shortcut")

#: Applied whatever the caller chooses: without it, zero padding would count as +1.
ALWAYS = ("padding",)
