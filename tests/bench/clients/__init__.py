"""Clients that others made, tried as they are: `python -m tests.bench.clients --help`."""
