"""The errors that cross module borders. Each one's text is a line for the user: what, where, what to do."""


class ToolkitError(Exception):
    """Something only the user can fix; the command ends with `exit_code`."""

    exit_code = 2


class Unavailable(ToolkitError):
    """A sink, source or journal that cannot be used now but can heal; whoever retries backs off first."""

    exit_code = 3


class Absent(Unavailable):
    """A source has not appeared yet: no file, table, topic or broker. Whatever it brings later is new."""


class SinkReplaced(Unavailable):
    """The file behind a sink was deleted or exchanged while it was open: reopen and ask it again."""


class StoreUnavailable(Unavailable):
    """The processed store cannot be used now: whoever reads continues from what is stored when it can."""


class Rejected(ToolkitError):
    """A sink will never take this message; the rows before it may be stored."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"sequence {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class PositionMoved(ToolkitError):
    """Another consumer advanced the stored position since it was read here."""

    exit_code = 3
