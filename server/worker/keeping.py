"""What another media worker needs of a conversation to go on with it, when there is news of it."""

from __future__ import annotations

from server.control import ConversationKept
from server.worker.conversation import Conversation


class Keeping:
    """Owns what was told last of one conversation; ask for `news` about once a second."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._told: ConversationKept | None = None

    def news(self) -> ConversationKept | None:
        """How the conversation stands, if that has changed; of answers what was heard."""
        now = self.now()
        if now == self._told:
            return None
        self._told = now
        return now

    def now(self) -> ConversationKept:
        """How the conversation stands."""
        return ConversationKept(self._conversation.settings, self._conversation.standing())
