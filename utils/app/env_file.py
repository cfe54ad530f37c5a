"""The file `.env`: its variables, or one line of error that names file and line."""

import re
from io import StringIO
from pathlib import Path

from dotenv.main import resolve_variables
from dotenv.parser import parse_stream

from utils.app.errors import ToolkitError


def read_env_file(project: Path) -> tuple[Path | None, dict[str, str]]:
    """Return path and values of `.env` in the current folder, else in `project`; the path is None without a file.

    Raises ToolkitError that names file and line if the file cannot be read or parsed.
    """
    try:
        path = next((path for path in (Path.cwd() / ".env", project / ".env") if path.exists()), None)
        text = path.read_text(encoding="utf-8-sig") if path else ""
    except FileNotFoundError as error:
        raise ToolkitError("the current folder was deleted: change to another one") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text; save it as UTF-8"
        raise ToolkitError(f".env cannot be read: {reason}") from error
    bindings = list(parse_stream(StringIO(text)))
    for binding in bindings:
        if binding.error or (binding.key and binding.value is None) or "\0" in binding.original.string:
            lines = binding.original.string
            line = binding.original.line + lines[: len(lines) - len(lines.lstrip())].count("\n")
            # The line may contain a password, so the message has only the variable's name.
            variable = re.match(r"(export\s+)?[A-Za-z_]\w*", lines.strip())
            shown = variable[0] if variable else "this line"
            raise ToolkitError(f"{path} line {line}: {shown} is not NAME=VALUE on one line; correct or remove it")
    values = resolve_variables([(each.key, each.value) for each in bindings if each.key], override=False)
    return path, {name: value for name, value in values.items() if value}
