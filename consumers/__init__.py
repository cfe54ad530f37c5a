"""Commands that read the sinks; `python -m consumers.NAME` runs this first."""

from utils.app import startup

startup.guard_command()
