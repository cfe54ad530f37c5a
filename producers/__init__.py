"""Commands that generate messages; `python -m producers.NAME` runs this first."""

from utils.app import startup

startup.guard_command()
