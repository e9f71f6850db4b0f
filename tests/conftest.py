"""What every test has: the behaviour markers."""

pytest_plugins = ["tests.behaviours"]
