"""Read one picture file by hand, without an engine."""

from engine.minicpmo.session.item_decoding import decode_picture

__all__ = ["decode_picture"]
