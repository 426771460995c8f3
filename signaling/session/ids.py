"""Names that nobody can guess. Any process."""

import secrets


def new_id(prefix: str) -> str:
    """Return an unguessable id such as item_… ; prefixes as OpenAI's: event, item, resp, sess."""
    return f"{prefix}_{secrets.token_urlsafe(12)}"
