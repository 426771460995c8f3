"""What a client puts into the conversation and takes out of it."""

from __future__ import annotations

from engine.builtin.album import Album
from engine.builtin.history import History, Item
from engine.builtin.settings import Settings
from engine.ipc.protocol import (
    AppendContext,
    DeleteItem,
    FunctionCallIn,
    FunctionOutputIn,
    ItemIn,
)

BEFORE = {
    "instructions": "",
    "thinking": "You know this; say it only when it is wanted:\n",
    "commentary": "Tell the user this now, in your own words; if it asks for something, do it:\n",
}


class ClientItems:
    """Enters the client's items of one session into its history."""

    def __init__(
        self, history: History, album: Album, settings: Settings, *, has_model: bool
    ) -> None:
        self._history = history
        self._album = album
        self._settings = settings
        self._has_model = has_model
        self._appended = 0

    def take(self, message: ItemIn | DeleteItem | FunctionCallIn | FunctionOutputIn) -> None:
        match message:
            case ItemIn():
                self._album.add(message)
            case DeleteItem(item=ident):
                if not self._history.delete(ident):
                    self._settings.warn("unknown_item", f"there is no item {ident!r}")
            case FunctionCallIn() | FunctionOutputIn() if not self._has_model:
                self._settings.warn_tools()
            case FunctionCallIn(item=ident, call_id=call_id, name=name, arguments=arguments):
                call = Item(ident, "call", arguments, call_id=call_id, name=name)
                self._add(call, message.after)
            case FunctionOutputIn(item=ident, call_id=call_id, output=output):
                if self._history.has_call(call_id):
                    self._add(Item(ident, "output", output, call_id=call_id), message.after)
                else:
                    told = f"there is no call {call_id!r}: its output is not used"
                    self._settings.warn("unknown_call", told)

    def append(self, message: AppendContext) -> None:
        """Tell the model a rule, what it is to know, or what it is to say."""
        self._appended += 1
        told = BEFORE[message.kind] + message.text
        self._history.add(Item(f"append-{self._appended}", "system", told))

    def _add(self, item: Item, after: str) -> None:
        if not self._history.add(item, after):
            told = f"there is no item {after!r}; {item.ident!r} goes to the end"
            self._settings.warn("unknown_place", told)
