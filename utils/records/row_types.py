"""The types of fields in Python, and the row-structs that are generated from them."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

MAX_INT64 = 2**63 - 1
MAX_EXACT = 2**53  # what a column of 64-bit floats gives back unchanged

NONE = Raw()  # this one instance: it stands for a value that is absent

_Int64 = Annotated[int, Meta(ge=-(2**63), le=MAX_INT64)]
_Exact = Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)]
TYPES: dict[str, Any] = {
    "text": str | None,
    "integer": _Int64 | None,
    "number": _Exact | float | None,
    "boolean": bool | None,
    "timestamp": str | None,
    "json": Raw,
}
OWN = {
    "extra": None,
    "producer_id": Annotated[str, Meta(min_length=1)] | None,
    "sequence": Annotated[int, Meta(ge=1, le=MAX_INT64)] | None,
}
"""The columns that every stream has behind its fields. No JSON value but null fits `extra`: only the codec sets it."""
RESERVED = (*OWN, "rowid", "_rowid_", "oid")


def attribute_of(name: str, number: int) -> str:
    """The attribute that holds a field: its name where that can be one."""
    usable = name.isidentifier() and name.isascii() and not name.startswith(("_", "field_")) and name not in OWN
    return name if usable else f"field_{number}"


def row_type(columns: Sequence[tuple[str, Any, str]], required: frozenset[str], *, strict: bool) -> Any:
    """A row-struct type: all fields optional, but for those that a line must have to be read in one call."""
    shape: list[Any] = []
    for attribute, kind, name in columns:
        if name in required:
            shape.append((attribute, without_none(kind)))
        else:
            shape.append((attribute, kind, NONE if kind is Raw else None))
    return msgspec.defstruct(
        "Row",
        shape,
        kw_only=bool(required),
        gc=False,
        forbid_unknown_fields=strict,
        rename={attribute: name for attribute, _, name in columns},
    )


def without_none(kind: Any) -> Any:
    """A type without its None, if it has one."""
    found = [each for each in getattr(kind, "__args__", ()) if each is not type(None)]
    return found[0] if len(found) == 1 else kind
