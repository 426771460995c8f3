"""What callers say and when: speech found in sound, and judged where an answer is given."""
