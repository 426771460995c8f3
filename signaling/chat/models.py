"""The list of models: /v1/models. Front."""

from typing import Any

from signaling.errors import ProtocolError

MODEL = "omnicall"
"""Whichever model answers here."""


def model_object(name: str, created: int) -> dict[str, Any]:
    """A model in OpenAI's shape; `created`: since when it is served, Unix seconds."""
    return {"id": name, "object": "model", "created": created, "owned_by": MODEL}


def unknown_model(name: str) -> ProtocolError:
    return ProtocolError(
        f"model: there is no model {name[:64]!r} here; GET /v1/models tells which there are.",
        code="model_not_found",
        param="model",
        status=404,
    )
