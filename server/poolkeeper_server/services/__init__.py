"""Use cases of the daemon, and what they stand on: secrets, certificates, tokens, metrics, events."""
