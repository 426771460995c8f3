"""Replay of golden data sets."""
