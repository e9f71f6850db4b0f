"""What every test has: the behaviour markers, figures to count, and PostgreSQL for whoever asks."""

pytest_plugins = ["tests.behaviours", "tests.figures", "tests.postgres"]
