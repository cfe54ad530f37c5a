"""Commands that generate messages; `python -m producers.NAME` runs this first."""

from utils.app import early

early.guard_command()
