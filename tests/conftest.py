"""What every test has: the markers of behaviours and invariants, and Hypothesis' profiles."""

from hypothesis import Phase, settings

pytest_plugins = ["tests.behaviours"]

# Whether something is found, and not its smallest example: what tests/sabotage asks.
settings.register_profile("found", phases=[Phase.explicit, Phase.generate])
