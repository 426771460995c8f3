"""What the native engine says that it honours reaches generation; of the rest it warns by name."""

from __future__ import annotations

import msgspec

from engine.ipc import protocol as p
from engine.ipc.session_config import SETTINGS
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.session.session import Session
from engine.minicpmo.session.settings import HONOURS, duplex_settings, reply_settings
from tests.engine.test_honours import EVERYTHING


def opened(config: p.SessionConfig) -> tuple[Session, list[p.FromEngine]]:
    said: list[p.FromEngine] = []
    return Session("s", 0, config, 1, said.append, unit=RELEASED_UNIT), said


def test_sampling_reaches_both_ways_of_generating() -> None:
    options = {"listen_bias": 0.5, "force_listen_count": 2, "window": "basic", "thinking": True}
    session, _ = opened(msgspec.structs.replace(EVERYTHING, options=options))
    config = session.config
    duplex = duplex_settings(config, session.unit)
    reply = reply_settings(config, speaks=session.speaks)
    for sampling in (duplex.sampling, reply.sampling):
        got = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.greedy)
        assert got == (0.3, 0.5, 7, True)
        assert (sampling.repetition_penalty, sampling.length_penalty) == (1.2, 1.1)
    assert session.seed == 4 and reply.max_new_tokens == 77 and reply.thinking
    assert reply_settings(config, speaks=False, max_tokens=9).max_new_tokens == 9
    assert (duplex.context_policy, duplex.force_listen_count) == ("end", 2)
    assert duplex.sampling.listen_bias == 0.5 and duplex.window.mode == "basic"
    assert not reply.speech and not session.speaks


def test_instructions_tools_and_mode_begin_anew() -> None:
    session, _ = opened(EVERYTHING)
    changes = {
        "instructions": "Other.",
        "appendix": "It snows.",
        "tools": (p.FunctionTool("f"),),
        "mode": "full_duplex",
    }
    for name, value in changes.items():
        config = msgspec.structs.replace(session.config, **{name: value})
        assert session.reconfigure(config), name
    changed = msgspec.structs.replace(session.config, speed=2.0, tools=())
    assert not session.reconfigure(changed)
    session.reconfigure(msgspec.structs.replace(session.config, mode="half_duplex"))
    assert not session.reconfigure(msgspec.structs.replace(session.config, mode="turn_based"))


def test_what_has_no_effect_is_named_once() -> None:
    session, said = opened(msgspec.structs.replace(EVERYTHING, options={}))
    session.reconfigure(session.config)
    warned = [message for message in said if isinstance(message, p.SessionWarning)]
    assert [w.message.partition(":")[0] for w in warned] == ["speed"]
    assert set(HONOURS) <= {*SETTINGS, "after"}
