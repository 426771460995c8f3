"""A fault matrix, a soak and attacks that stay: `python -m tests.faults --help`."""
