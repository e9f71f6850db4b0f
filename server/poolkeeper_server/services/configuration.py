"""What stops a start: a setting, a file or a machine that is not as the daemon needs it."""


class ConfigurationError(Exception):
    """The daemon cannot run as it is set up; an operator has to change something.

    `message` says what is wrong and where, `hint` what to do about it. The command line prints both and
    leaves with status 2.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


def without_driver(error: ModuleNotFoundError) -> ConfigurationError:
    """What is said when the extra [postgres] is not installed."""
    return ConfigurationError(
        f"{error.name} is not installed, and a PostgreSQL database needs it.",
        hint='Run: pip install "poolkeeper[postgres]"',
    )
