"""The types of fields in Python, and the row-structs that are generated from them."""

from collections.abc import Sequence
from typing import Annotated, Any, get_args

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


def row_type(attributes: Sequence[str], kinds: Sequence[Any], names: Sequence[str]) -> Any:
    """A row-struct type. Every field is optional, but for those up to the last one whose type knows no None."""
    needed = max((number for number, kind in enumerate(kinds) if not _may_be_absent(kind)), default=-1)
    shape: list[Any] = [
        (attribute, kind) if number <= needed else (attribute, kind, NONE if kind is Raw else None)
        for number, (attribute, kind) in enumerate(zip(attributes, kinds, strict=True))
    ]
    rename = dict(zip(attributes, names, strict=True))
    return msgspec.defstruct("Row", shape, gc=False, forbid_unknown_fields=True, rename=rename)


def _may_be_absent(kind: Any) -> bool:
    return kind is None or kind is Raw or type(None) in get_args(kind)
