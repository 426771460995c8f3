"""Read one video file as the native engine does, for tools of others: a name that stays."""

from engine.minicpmo.session.file_decoding import Clip, Second, read_clip

__all__ = ["Clip", "Second", "read_clip"]
