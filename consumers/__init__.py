"""Commands that read the sinks; `python -m consumers.NAME` imports this package first."""

from utils.app import startup

startup.check_environment_of_command()
