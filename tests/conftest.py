"""What every test has: the markers of behaviours and invariants, figures to count, PostgreSQL, Hypothesis' profiles."""

from hypothesis import Phase, settings

pytest_plugins = ["tests.behaviours", "tests.figures", "tests.postgres"]

# Whether something is found, and not its smallest example: what tests/sabotage asks.
settings.register_profile("found", phases=[Phase.explicit, Phase.generate])
