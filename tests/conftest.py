"""What every test has: the markers of behaviours and invariants, figures to count, PostgreSQL, Hypothesis' profiles."""

import signal

from hypothesis import Phase, settings

pytest_plugins = ["tests.behaviours", "tests.figures", "tests.postgres"]

# Whether something is found, and not its smallest example: what tests/sabotage asks.
settings.register_profile("found", phases=[Phase.explicit, Phase.generate])


def pytest_configure() -> None:
    """Heeds the signals that are ignored below nohup or a shell's &: every process that is started inherits that."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
