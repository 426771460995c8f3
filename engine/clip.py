"""Read one video file by hand, without an engine."""

from engine.minicpmo.session.file_decoding import Clip, Second, read_clip

__all__ = ["Clip", "Second", "read_clip"]
