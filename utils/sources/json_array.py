"""Files that are one JSON array: all items are read at once, for no place in an array is found without."""

from contextlib import suppress
from io import FileIO

import msgspec

from utils.app.errors import ToolkitError

BOM = b"\xef\xbb\xbf"
_FIRST_BYTES = 256

_array = msgspec.json.Decoder(list[msgspec.Raw])


def begins(file: FileIO) -> bool:
    """Whether the file begins like an array."""
    file.seek(0)
    return file.read(_FIRST_BYTES).removeprefix(BOM).lstrip()[:1] == b"["


def read_items(file: FileIO, *, finished: bool) -> list[msgspec.Raw] | None:
    """The items, none while the array is not complete; None if the file holds lines, the first of them an array.

    Raises ToolkitError if the file is `finished` and its array is not complete.
    """
    file.seek(0)
    data = file.readall().removeprefix(BOM)
    try:
        return _array.decode(data)
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, RecursionError):
            _array.decode(data.partition(b"\n")[0])
            return None
        if finished:
            raise ToolkitError(f"{file.name} begins like a JSON array but is not a complete one: {error}") from error
        return []
