"""Processes and the life of sessions: configuration, supervision, the front, the media workers."""
