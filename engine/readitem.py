"""Read one picture file as the native engine does, for tools of others: a name that stays."""

from engine.minicpmo.session.item_decoding import decode_picture

__all__ = ["decode_picture"]
