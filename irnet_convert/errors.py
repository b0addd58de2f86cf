"""One tree of errors; every message says what was given, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IrnetError(Exception):
    """Root of every error that this project raises on purpose.

    Args:
        given: what the caller handed over, with the offending value.
        expected: what would have been accepted.
        mend: the next thing to try, as an instruction.
    """

    def __init__(self, given: str, *, expected: str, mend: str) -> None:
        self.given = given
        self.expected = expected
        self.mend = mend
        super().__init__(f"{given}\n  expected: {expected}\n  to mend it: {mend}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: the default reduction would call __init__ with the message alone.
        return _rebuild, (type(self), self.given, self.expected, self.mend)


def _rebuild(cls: type[IrnetError], given: str, expected: str, mend: str) -> IrnetError:
    return cls(given, expected=expected, mend=mend)


class ArgumentError(IrnetError):
    """A value handed to a function is of the wrong kind or out of range."""


class ModelError(IrnetError):
    """The model cannot be converted as it stands (wrapped, already binary, not binary, ...)."""


class RecordError(ModelError):
    """The model could not be run once on the example input."""


class RewriteError(ModelError):
    """A graph rewrite failed or left the model in a state that its proof rejects."""


class PackError(ModelError):
    """The model cannot be packed as it stands, or a packed network is used as a model that trains."""


class ProgramError(IrnetError):
    """A packed network's program, graph or constants are malformed or contradict each other."""


class NativeError(IrnetError):
    """The native kernels are missing, or refuse what they are given."""


class PackedFileError(IrnetError):
    """A packed network's file is missing, damaged, altered, of another version or not a packed file."""


class MissingExtraError(IrnetError):
    """What was asked for needs a package that an optional extra installs."""


class PolicyError(IrnetError):
    """A policy, a rule or a saved plan is malformed or does not fit the model."""


class UnknownNameError(IrnetError):
    """A name (model, method, rewrite, preset, recipe, key) is not one of those known."""


class RecipeError(IrnetError):
    """A recipe or an override is malformed."""


class DataError(IrnetError):
    """A data set lacks what the recipe asks for."""


class CheckpointError(IrnetError):
    """A checkpoint or a run directory is missing, damaged or made for another model."""


class HubError(IrnetError):
    """A name on the Hugging Face Hub is malformed, or what it names cannot be fetched or uploaded."""


class PretrainedError(IrnetError):
    """A saved model is missing, damaged, altered or asks for what is refused, or a model cannot be saved."""


class LaunchError(IrnetError):
    """The processes that were started are not those that were asked for."""


class TrainingError(IrnetError):
    """Training cannot go on: the loss is no longer finite."""


def shown(value: object, most: int = 300) -> str:
    """``repr(value)`` for the text of an error, cut after ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """The names closest to ``name``, for the text of an error.

    Returns:
        ``"did you mean 'a', 'b'?"``, or, where nothing is close, a list of what is known
        (cut after ten names).
    """
    names, name = sorted(set(known)), name[:200]
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    if close:
        return "did you mean " + ", ".join(repr(c) for c in close) + "?"
    shown = ", ".join(repr(n) for n in names[:10])
    return f"known: {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
