"""What all blocks of a recipe share: frozen, strict, and errors that name the nearest key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

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

    @model_validator(mode="before")
    @classmethod
    def _keys_and_tuples(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise refuse(
                    str(key),
                    "is not a key of this block",
                    f"one of its keys; {nearest(str(key), cls.model_fields)}",
                )
        # A list is how plain data writes a tuple; strict types would refuse it.
        if isinstance(data, dict):
            return {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}
        return data
