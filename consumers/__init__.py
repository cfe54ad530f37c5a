"""Commands that read the sinks; `python -m consumers.NAME` runs this first."""

from utils.app import early

early.guard_command()
