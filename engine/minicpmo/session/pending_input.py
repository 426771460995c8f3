"""What the user of a session gave that the model has not read yet: pictures, items and speech."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import Tensor

from engine.ipc.protocol import INPUT_HZ, ImageIn, utterance_item
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.turn_history import Given, ShownPicture, SpokenTurn

MAX_ITEMS = 64
MAX_ITEM_BYTES = 256 * 1024 * 1024
"""Of a session's decoded pictures and sound, until the model has read them."""
MAX_COMMITTED_SAMPLES = 120 * INPUT_HZ

# Pictures are only read; a copy of each would cost the model's thread more than all its sound.
warnings.filterwarnings("ignore", "The given buffer is not writable")


class PendingInput:
    """Owned by the session; bounded in items, bytes and samples."""

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        """`warn(code, message)` tells the client what is left out."""
        self.picture: Tensor | None = None
        """[height, width, 3] uint8, the newest; None while the camera is off."""
        self.items: deque[DecodedItem] = deque(maxlen=MAX_ITEMS)
        """Typed items that no turn has taken yet."""
        self._warn = warn
        self._is_picture_new = False
        self._in_memory: WeakSet[DecodedItem] = WeakSet()
        """Also those whose turn is being read."""
        self._committed: Tensor | None = None
        """What the user said [N] that no response has taken yet."""
        self._committed_names: list[str] = []

    def see(self, image: ImageIn) -> None:
        """Keep the newest picture; an empty one says that the camera is off."""
        if not image.rgb:
            self.picture = None
            return
        if len(image.rgb) != image.width * image.height * 3:
            self._warn("bad_picture", f"a picture of {len(image.rgb)} bytes does not fit its size")
            return
        flat = torch.frombuffer(image.rgb, dtype=torch.uint8)
        self.picture = flat.view(image.height, image.width, 3)
        self._is_picture_new = True

    def take_picture(self) -> Tensor | None:
        """Return the newest picture, once."""
        picture = self.picture if self._is_picture_new else None
        self._is_picture_new = False
        return picture

    def add(self, item: DecodedItem) -> None:
        """Keep an item for the next turn; of its files only what there is memory for."""
        size = item.num_bytes
        if size and sum(kept.num_bytes for kept in self._in_memory) + size > MAX_ITEM_BYTES:
            self._warn(
                "too_much_media",
                "too many pictures and sounds wait for an answer: of this message only the words "
                "count",
            )
            item = item.words()
        self._in_memory.add(item)
        if len(self.items) == MAX_ITEMS:
            told = f"more than {MAX_ITEMS} messages wait for an answer: the oldest is left out"
            self._warn("too_many_items", told)
        self.items.append(item)

    def place(self, item: DecodedItem) -> bool:
        """Put an item behind one that no turn has taken yet; return whether it is there."""
        places = [at for at, kept in enumerate(self.items, 1) if kept.item == item.after]
        if not places:
            return False
        kept = list(self.items)
        kept.insert(places[0], item)
        self.items = deque(kept, maxlen=MAX_ITEMS)
        self._in_memory.add(item)
        return True

    def put_back(self, item: DecodedItem) -> None:
        """Let this be the oldest item again, of which a part was taken."""
        self.items.appendleft(item)
        self._in_memory.add(item)

    def forget(self, item_id: str) -> bool:
        """Drop what no turn has taken yet of a typed item; return whether that was all of it."""
        dropped = [item for item in self.items if item.item == item_id]
        kept = [item for item in self.items if item.item != item_id]
        self.items = deque(kept, maxlen=MAX_ITEMS)
        return bool(dropped) and not any(item.is_rest for item in dropped)

    def keep_speech(self, sound: Tensor, utterance: int) -> None:
        """Keep sound [N] until a response is asked for; of very much the oldest goes."""
        self._committed_names.append(utterance_item(utterance))
        kept = sound if self._committed is None else torch.cat([self._committed, sound])
        self._committed = kept[-MAX_COMMITTED_SAMPLES:]

    def take_items(self, most: int = MAX_ITEMS) -> list[DecodedItem]:
        """Return the oldest typed items that were not read yet, once."""
        return [self.items.popleft() for _ in range(min(most, len(self.items)))]

    def take(self, max_image_slices: int) -> list[Given]:
        """Return all that the user gave since the last response, once: what is seen, what was
        written and what was said."""
        given: list[Given] = []
        if (picture := self.take_picture()) is not None:
            given.append(ShownPicture(picture, max_image_slices))
        given += self.take_items()
        names, self._committed_names = tuple(self._committed_names), []
        sound, self._committed = self._committed, None
        if sound is not None and len(sound):
            given.append(SpokenTurn(names, sound))
        return given
