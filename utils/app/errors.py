"""The errors that modules raise for their callers. Each message is one line for the user: what, where, what to do."""


class ToolkitError(Exception):
    """An error that only the user can fix. The command ends with `exit_code`."""

    exit_code = 2


class Unavailable(ToolkitError):
    """A sink, source or journal cannot be used now, but may be usable later. Callers wait before they retry."""

    exit_code = 3


class Absent(Unavailable):
    """A source does not exist yet: no file, table, topic or broker. Records that it gets later count as new."""


class SinkReplaced(Unavailable):
    """The file of a sink was deleted or replaced while it was open. Open the sink again and ask for its last record."""


class StoreUnavailable(Unavailable):
    """The processed store cannot be used now. The consumer resumes later, from the position that is stored."""


class Rejected(ToolkitError):
    """The sink rejects this record for good. The records before it may be stored."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"sequence {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class PositionMoved(ToolkitError):
    """Another consumer has advanced the stored position since this one read it."""

    exit_code = 3
