"""What every test has: the behaviour markers, and PostgreSQL for whoever asks."""

pytest_plugins = ["tests.behaviours", "tests.postgres"]
