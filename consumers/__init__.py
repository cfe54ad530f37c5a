"""Commands that read the sinks; `python -m consumers.NAME` runs this first."""

from utils import early

early.guard_command()
