"""What all blocks of a recipe share: frozen, strict, and errors that name the nearest key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from irnet_convert.errors import nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Pair = tuple[float, float]


def refuse(path: str, problem: str, expected: str) -> PydanticCustomError:
    """A validation error whose parts the recipe's formatter knows; ``path`` is relative to its block."""
    return PydanticCustomError(
        "refused", "{problem}", {"path": path, "problem": problem, "expected": expected}
    )


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
