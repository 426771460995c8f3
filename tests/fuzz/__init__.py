"""A fuzzing campaign that stays: `python -m tests.fuzz TARGET --seconds N --seed S`."""
