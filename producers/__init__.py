"""Commands that send records; `python -m producers.NAME` imports this package first."""

from utils.app import startup

startup.check_environment_of_command()
