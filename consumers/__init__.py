"""Commands that read the sinks; `python -m consumers.NAME` imports this package first."""

from utils.app import startup

startup.guard_command()
