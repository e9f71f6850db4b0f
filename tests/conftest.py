"""What every test has: the behaviour markers, and figures to count."""

pytest_plugins = ["tests.behaviours", "tests.figures"]
