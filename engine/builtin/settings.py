"""A session's configuration as this engine can serve it, and warnings about what it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from engine.base import Send
from engine.builtin.rules import read_timezone
from engine.ipc.protocol import SessionConfig, SessionWarning
from engine.ipc.session_config import SETTINGS, unhonoured

NO_FUNCTIONS = "no language model answers here, so no functions are called"


class Settings:
    """Remembers its warnings, so that updates do not repeat them."""

    def __init__(
        self,
        session: str,
        send: Send,
        has_voice: Callable[[str], bool],
        honours: Collection[str] = SETTINGS,
    ) -> None:
        self._honours = honours
        self._session = session
        self._send = send
        self._has_voice = has_voice
        self._warned: set[tuple[str, str]] = set()
        self.voice = ""
        """The voice to speak with; empty: the engine's default."""

    def accept(self, config: SessionConfig) -> SessionConfig:
        """Apply what can be served and warn about the rest; nothing is refused."""
        for name in unhonoured(config, self._honours):
            self.warn_once("unused_setting", name, "has no effect with this engine")
        self.voice = config.voice
        if config.voice and not self._has_voice(config.voice):
            self.voice = ""
            self.warn_once("unknown_voice", config.voice, "no such voice; the default one speaks")
        for name, value in config.options.items():
            if name != "timezone":
                self.warn_once("unknown_option", name, "this engine has no such option")
            elif read_timezone(value) is None:
                self.warn_once("invalid_option", name, "no such time zone; the server's is used")
        return config

    def warn(self, code: str, text: str) -> None:
        """Warn about something that happens now."""
        self._send(SessionWarning(self._session, code, text))

    def warn_tools(self) -> None:
        """Say that nothing calls functions."""
        self.warn_once("tools_unsupported", "tools", NO_FUNCTIONS)

    def warn_once(self, code: str, name: str, text: str) -> None:
        """Warn about something of this name, unless that was done before."""
        if (code, name) in self._warned:
            return
        self._warned.add((code, name))
        # Later, because a session must be announced as open before anything is said about it.
        warning = SessionWarning(self._session, code, f"{name[:64]}: {text}")
        asyncio.get_running_loop().call_soon(self._send, warning)
