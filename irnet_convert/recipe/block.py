"""What all blocks of a recipe share: frozen, strict, and errors that name the nearest key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from irnet_convert.errors import nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Side = Annotated[int, Field(ge=1, le=4096)]  # of an image, in pixels
Pair = tuple[float, float]


def refuse(path: str, problem: str, expected: str) -> PydanticCustomError:
    """A validation error whose parts the recipe's formatter knows; ``path`` is relative to its block."""
    return PydanticCustomError(
        "refused", "{problem}", {"path": path, "problem": problem, "expected": expected}
    )


def _stranger(key: str, known: Iterable[str]) -> PydanticCustomError:
    return refuse("", "is not a key of this block", f"one of its keys; {nearest(key, known)}")


def _again(item: ErrorDetails) -> InitErrorDetails:
    """An error of pydantic's, to be raised once more beside others."""
    context = item.get("ctx", {})
    kind = PydanticCustomError("refused", "{problem}", context) if item["type"] == "refused" else item["type"]
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"], ctx=context)


def _as_file_name(text: str) -> str:
    """A path or a name that no system call refuses as such."""
    if (
        not text.isprintable()
        or len(text) > 1000
        or any(len(part.encode()) > 250 for part in text.split("/"))
    ):
        raise refuse("", f"is {text[:60]!r}...", "a path: printable, 250 bytes a part at most")
    return text


#: A path of this machine, or a name that may be one.
PathText = Annotated[str, AfterValidator(_as_file_name)]


class Block(BaseModel):
    """Base of all blocks: frozen, strict types, unknown keys refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _no_strangers(cls, data: Any, handler: Any) -> Any:
        """Refuse unknown keys, together with what is wrong with the others."""
        if not isinstance(data, dict):
            return handler(data)
        strangers = [
            InitErrorDetails(type=_stranger(str(key), cls.model_fields), loc=(str(key),), input=data[key])
            for key in data
            if key not in cls.model_fields
        ]
        if not strangers:
            return handler(data)
        try:
            handler({key: item for key, item in data.items() if key in cls.model_fields})
        except ValidationError as error:
            strangers += [_again(item) for item in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, strangers)

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: Any) -> Any:
        # A list is how plain data writes a tuple; strict types would refuse it.
        if isinstance(data, dict):
            return {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}
        return data
