"""Commands that send records; `python -m producers.NAME` imports this package first."""

from utils.app import startup

startup.guard_command()
