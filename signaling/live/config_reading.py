"""What clients say a Live session is to be, checked against what is served. Any process.

Unknown members are errors; `param` is the path of the member, from `session`.
"""

from typing import Any

import msgspec

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.live.session_config import (
    FIXED,
    Backend,
    CalledConfig,
    Delegation,
    EventSelector,
    LiveConfig,
    LiveUpdate,
    ResponsesDelegation,
    ResponsesDelegationUpdate,
    WireFormat,
)
from signaling.live.tokens import estimate_tokens

MAX_INSTRUCTION_TOKENS = 16_384
MAX_INPUT_TOKENS = 8_192
MAX_BACKEND_BYTES = 128 * 1024


def read_config(raw: Any) -> LiveConfig:
    """Read the session of a `session.start`; raises `ProtocolError`."""
    config = convert(_served(raw), LiveConfig, prefix="session")
    if config.client is not None:
        raise ProtocolError(
            "session.client: this is for data channels; a WebSocket may send and is told all.",
            code="unsupported_value",
            param="session.client",
        )
    return _checked(config)


def read_media_config(raw: Any) -> CalledConfig:
    """Read the session of a POST with an offer; raises `ProtocolError`."""
    config = convert(_served(raw), CalledConfig, prefix="session")
    if config.audio is not None and config.audio.format is not None:
        raise ProtocolError(
            "session.audio.format: the sound of a WebRTC session is negotiated with the offer.",
            code="unsupported_value",
            param="session.audio.format",
        )
    if config.wake_policy is not None and config.idle_timeout_s is None:
        raise ProtocolError(
            "session.idle_timeout_s: this field is required with wake_policy.",
            code="missing_required_parameter",
            param="session.idle_timeout_s",
        )
    _checked(config)
    return config


def read_update(raw: Any, current: LiveConfig) -> LiveConfig:
    """Return the configuration after a `session.update`; raises `ProtocolError`.

    Lists are replaced, objects merged.
    """
    given = _served(raw)
    for name in given:
        if name in FIXED:
            raise _immutable(name, f"session.{name}: this is fixed when a session starts.")
    update = convert(given, LiveUpdate, prefix="session")
    if update.delegation is msgspec.UNSET:
        return current
    return _checked(msgspec.structs.replace(current, delegation=_merged(update, current)))


def _merged(update: LiveUpdate, current: LiveConfig) -> Delegation | None:
    old, new = current.delegation, update.delegation
    where = "delegation.type"
    if isinstance(old, ResponsesDelegation):
        if not isinstance(new, ResponsesDelegationUpdate):
            raise _immutable(where, "session.delegation.type: this stays as it was at the start.")
        backend = old.responses
        if new.responses is not None:
            given = {
                name: value
                for name, value in msgspec.structs.asdict(new.responses).items()
                if value is not None
            }
            backend = msgspec.structs.replace(backend, **given)
        delay = new.acknowledgement_delay_ms
        return ResponsesDelegation(
            responses=backend,
            acknowledgement_delay_ms=old.acknowledgement_delay_ms if delay is None else delay,
        )
    if isinstance(new, ResponsesDelegationUpdate):
        raise _immutable(where, "session.delegation.type: this stays as it was at the start.")
    return old if new is None or isinstance(new, msgspec.UnsetType) else new


def _immutable(name: str, message: str) -> ProtocolError:
    return ProtocolError(message, code="immutable_field_update", param=f"session.{name}")


def _served(raw: Any) -> dict[str, Any]:
    """Return the fields given; refuse those of Live that this server does not support, by name."""
    if not isinstance(raw, dict):
        raise ProtocolError("session: a JSON object is expected.", param="session")
    delegation = raw.get("delegation")
    if isinstance(delegation, dict) and delegation.get("type") == "decisions":
        raise ProtocolError(
            'session.delegation.type: "decisions" is not served; allowed: "client", "responses".',
            code="unsupported_value",
            param="session.delegation.type",
        )
    if raw.get("triggers"):
        raise ProtocolError(
            "session.triggers: these belong to decisions, which are not served.",
            code="unsupported_value",
            param="session.triggers",
        )
    if raw.get("store") is True:
        raise ProtocolError(
            "session.store: sessions are not stored here.",
            code="storage_unavailable",
            param="session.store",
        )
    return {name: value for name, value in raw.items() if name != "triggers"}


def _checked(config: LiveConfig) -> LiveConfig:
    """Return `config` if it keeps the limits that concern several fields."""
    if estimate_tokens(config.instructions or "") > MAX_INSTRUCTION_TOKENS:
        raise _too_long("session.instructions", MAX_INSTRUCTION_TOKENS)
    past = sum(estimate_tokens(message.content[0].text) for message in config.input or ())
    if past > MAX_INPUT_TOKENS:
        raise _too_long("session.input", MAX_INPUT_TOKENS)
    ids = [message.id for message in config.input or () if message.id is not None]
    if len(set(ids)) < len(ids):
        raise ProtocolError("session.input: each id is given once.", param="session.input")
    for index, selector in enumerate(_selectors(config)):
        path = f"session.client.data_channel.allowed_server_events.{index}.response_event"
        if (selector.type == "response.event") is not (selector.response_event is not None):
            told = 'required with "response.event", and only there'
            raise ProtocolError(f"{path}: this field is {told}.", param=path)
    if isinstance(config.delegation, ResponsesDelegation):
        _check_backend(config.delegation.responses)
    return config


def _selectors(config: LiveConfig) -> tuple[EventSelector, ...]:
    allowed = config.rights.allowed_server_events
    return allowed if isinstance(allowed, tuple) else ()


def _check_backend(backend: Backend) -> None:
    path = "session.delegation.responses.tools"
    for index, tool in enumerate(backend.tools or ()):
        if tool.get("type") != "function":
            raise ProtocolError(
                f"{path}.{index}.type: {str(tool.get('type'))[:40]!r} is not served; "
                'allowed: "function".',
                code="unsupported_value",
                param=f"{path}.{index}.type",
            )
        name = tool.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= 128:
            where = f"{path}.{index}.name"
            raise ProtocolError(f"{where}: a name of 1 to 128 characters.", param=where)
    if len(msgspec.json.encode(backend.tools or ())) > MAX_BACKEND_BYTES:
        raise ProtocolError(f"{path}: at most {MAX_BACKEND_BYTES} bytes of JSON.", param=path)


def _too_long(path: str, limit: int) -> ProtocolError:
    return ProtocolError(
        f"{path}: at most {limit} tokens are allowed.", code="content_too_long", param=path
    )


def resource(config: LiveConfig, session_id: str, expires_at: int) -> dict[str, Any]:
    """Render the session resource with all values resolved; `expires_at`: Unix seconds."""
    shown: dict[str, Any] = msgspec.to_builtins(config)
    shown.pop("safety_identifier", None)
    if not isinstance(config, CalledConfig):
        shown.setdefault("audio", {})["format"] = _format(config.format)
    return {
        "id": session_id,
        "expires_at": expires_at,
        "status": "active",
        "instructions": "",
        "input": [],
        "store": False,
        "delegation": {"type": "client"},
        **shown,
    }


def _format(format: WireFormat) -> dict[str, Any]:
    return {**msgspec.to_builtins(format), "rate": format.rate}
