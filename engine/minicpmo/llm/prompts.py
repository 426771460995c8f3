"""Text, pictures and sound of a conversation as the ids and embedding rows that the model reads.

Foreign text is never allowed to spell a special token unless the caller says that it is trusted.
Source: the checkpoint's chat template and the MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from engine.minicpmo.llm.context_window import Media
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.config import OmniConfig

Role = Literal["system", "user", "assistant"]

IMAGE_SLOT = "<image>./</image>"
AUDIO_SLOT = "<audio>./</audio>"

DUPLEX_SYSTEM = "Streaming Omni Conversation."

# Private-use characters around the number of a string that must not become a special token.
_OPEN, _CLOSE = "\ue000", "\ue001"
_ESCAPED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")

VOICE_PROMPTS = {
    "en": (
        "Use the voice in the audio prompt to synthesize new content.",
        "You are a helpful assistant with the above voice style.",
    ),
    "zh": (
        "模仿音频样本的音色并生成新的内容。",
        "你的任务是用这种声音模式来当一个助手。请认真、高质量地回复用户的问题。"
        "请用高自然度的方式和用户聊天。你是由面壁智能开发的人工智能助手：面壁小钢炮。",
    ),
}
"""What stands before and behind the reference voice in a system message, by language."""


class PromptError(ValueError):
    """A prompt does not fit together or is too long; the client can mend it."""


class PromptTooLong(PromptError):
    """It is longer than what the model can remember."""


def check_instructions(taken: int, limit: int) -> None:
    """Raise `PromptTooLong` if a system message of `taken` positions leaves none for anything."""
    if taken >= limit:
        raise PromptTooLong(
            f"the instructions take {taken} of the model's {limit} positions: send shorter ones"
        )


@dataclass(frozen=True, slots=True)
class PromptPicture:
    """The place of a picture in a message."""

    columns: int = 0
    rows: int = 0
    """Slices behind the source image, 0 by 0 for none."""


@dataclass(frozen=True, slots=True)
class PromptSound:
    """The place of a sound in a message."""

    embeddings: int


@dataclass(frozen=True, slots=True)
class PromptMarkup:
    """Text of ours, in which special tokens are meant as such."""

    text: str


PromptPart = str | PromptPicture | PromptSound | PromptMarkup


@dataclass(frozen=True, slots=True)
class PromptMessage:
    role: Role
    parts: tuple[PromptPart, ...]


def _closing(answered: bool, called: bool) -> str:
    """What ends the answer before a message."""
    if not answered:
        return ""
    return "<|im_end|>\n" if called else "<|tts_eos|><|im_end|>\n"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids with a placeholder for each row that an embedding replaces."""

    text: str
    """Before the media are filled in."""
    ids: list[int]
    image_bounds: list[tuple[int, int]] = field(default_factory=list)
    """First row and end of each encoded image, slices included, in order."""
    audio_bounds: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def media(self) -> Media:
        """How many of its rows are embeddings."""
        images = sum(end - start for start, end in self.image_bounds)
        return Media(sum(end - start for start, end in self.audio_bounds), images)

    def weave(self, images: Sequence[Tensor], sounds: Sequence[Tensor]) -> list[list[int] | Tensor]:
        """Return ids and embeddings [rows, C] in order; raises `PromptError` if they do not fit."""
        if len(images) != len(self.image_bounds) or len(sounds) != len(self.audio_bounds):
            raise PromptError(
                f"{len(images)} images and {len(sounds)} sounds for {len(self.image_bounds)} and "
                f"{len(self.audio_bounds)} places"
            )
        spans = sorted(
            [
                *zip(self.image_bounds, images, strict=True),
                *zip(self.audio_bounds, sounds, strict=True),
            ],
            key=lambda item: item[0],
        )
        woven: list[list[int] | Tensor] = []
        done = 0
        for (start, end), rows in spans:
            if rows.shape[0] != end - start:
                raise PromptError(f"{rows.shape[0]} embeddings for {end - start} places")
            if start > done:
                woven.append(list(self.ids[done:start]))
            if end > start:
                woven.append(rows)
            done = end
        if done < len(self.ids):
            woven.append(list(self.ids[done:]))
        return woven


class PromptBuilder:
    """Renders prompts for one checkpoint. Immutable, shared by all sessions."""

    def __init__(self, tokens: OmniTokenizer, config: OmniConfig) -> None:
        self.tokens = tokens
        self.image_rows = config.resampler.num_queries
        self._image_text = "<image>" + "<unk>" * self.image_rows + "</image>"
        self._slice_text = "<slice>" + "<unk>" * self.image_rows + "</slice>"
        # Longest first, so that none matches inside another.
        self._reserved = tuple(sorted({*tokens.added, _OPEN, _CLOSE}, key=len, reverse=True))
        self._reserved_at = re.compile("|".join(re.escape(text) for text in self._reserved))

    # ------------------------------------------------------------------ full duplex

    def duplex_prefix(self, text: str = DUPLEX_SYSTEM, *, trusted: bool = False) -> list[int]:
        """Return the ids before the embeddings of the reference voice."""
        return self._encode(f"<|im_start|>system\n{self._safe(text, trusted)}\n<|audio_start|>")

    def duplex_suffix(self, told: Sequence[str] = ()) -> list[int]:
        """Return the ids behind the embeddings of the reference voice, with what was told since."""
        more = "".join(f"\n{self._safe(text, False)}" for text in told)
        return self._encode(f"<|audio_end|>{more}<|im_end|>")

    def between_units(self, messages: Sequence[PromptMessage]) -> Prompt:
        """Render whole messages as they stand between two units."""
        texts = [f"<|im_start|>{m.role}\n{self._content(m, False)}<|im_end|>" for m in messages]
        parts = [part for message in messages for part in message.parts]
        return self.fill("\n".join(texts), parts, image_ids=False)

    # ------------------------------------------------------------------ turns

    def half_duplex(
        self,
        message: PromptMessage,
        *,
        answered: bool = False,
        called: bool = False,
        continues: bool = False,
        image_ids: bool = False,
        first_image: int = 0,
        trusted: bool = False,
    ) -> Prompt:
        """Render one prefill of half duplex; a user's turn is left open for further segments.

        `answered`: an answer was generated since the last user turn and is still open; `called`:
        by calls of functions.
        `continues`: a further segment of the same turn.
        """
        content = self._content(message, trusted)
        if message.role == "system":
            text = f"<|im_start|>system\n{content}<|im_end|>\n"
        elif message.role != "user":
            raise PromptError(f"half duplex cannot prefill a message of the {message.role}")
        elif continues:
            text = content
        else:
            text = f"{_closing(answered, called)}<|im_start|>user\n{content}"
        return self.fill(text, message.parts, image_ids=image_ids, first_image=first_image)

    def turn(
        self,
        messages: Sequence[PromptMessage],
        *,
        answered: bool = False,
        called: bool = False,
        image_ids: bool = False,
        first_image: int = 0,
    ) -> Prompt:
        """Render what stands between two answers; the last message is left open for the next.

        `answered`, `called`: as in `half_duplex`.
        """
        texts = [f"<|im_start|>{m.role}\n{self._content(m, False)}" for m in messages]
        text = _closing(answered, called) + "<|im_end|>\n".join(texts)
        parts = [part for message in messages for part in message.parts]
        return self.fill(text, parts, image_ids=image_ids, first_image=first_image)

    def aside(self, instructions: str, functions: Sequence[PromptPart] = ()) -> list[int]:
        """Instructions and functions for one answer, between the user's open message and the
        answer's opening.

        Without them the message is closed and the answer opened as if they had never been there.
        """
        told = self._content(PromptMessage("system", (instructions, *functions)), False)
        return self._encode(f"<|im_end|>\n<|im_start|>system\n{told}")

    def call_opening(self, name: str) -> tuple[int, ...]:
        """The beginning of a call that must be made; an empty name leaves the model the choice."""
        if not name:
            return tuple(self._encode("<tool_call>\n"))
        told = self._safe(json.dumps(name, ensure_ascii=False), False)
        return tuple(self._encode(f'<tool_call>\n{{"name": {told}, "arguments": '))

    # ------------------------------------------------------------------ pieces

    def _content(self, message: PromptMessage, trusted: bool) -> str:
        pieces: list[str] = []
        for part in message.parts:
            if isinstance(part, PromptPicture):
                pieces.append(IMAGE_SLOT)
            elif isinstance(part, PromptSound):
                pieces.append(AUDIO_SLOT)
            elif isinstance(part, PromptMarkup):
                pieces.append(part.text)
            else:
                pieces.append(self._safe(part, trusted))
        return "".join(pieces)

    def _safe(self, text: str, trusted: bool) -> str:
        """Take special tokens and slots out of foreign text, to be encoded as mere characters."""
        if trusted:
            return text
        return self._reserved_at.sub(
            lambda match: f"{_OPEN}{self._reserved.index(match[0])}{_CLOSE}", text
        )

    def fill(
        self, text: str, parts: Sequence[PromptPart], *, image_ids: bool, first_image: int = 0
    ) -> Prompt:
        """Put the media among `parts` into the slots of `text`; raises `PromptError`."""
        media = [part for part in parts if isinstance(part, PromptPicture | PromptSound)]
        chunks = re.split(f"({re.escape(IMAGE_SLOT)}|{re.escape(AUDIO_SLOT)})", text)
        slots = chunks[1::2]
        wanted = [IMAGE_SLOT if isinstance(part, PromptPicture) else AUDIO_SLOT for part in media]
        if slots != wanted:
            raise PromptError(f"{len(slots)} media slots in the prompt for {len(media)} media")
        filled = [chunks[0]]
        image = first_image
        for part, rest in zip(media, chunks[2::2], strict=True):
            if isinstance(part, PromptPicture):
                filled.append(self._picture_text(part, image if image_ids else None))
                image += 1
            else:
                filled.append(f"<|audio_start|>{'<unk>' * part.embeddings}<|audio_end|>")
            filled.append(rest)
        ids = [token for token in self._encode("".join(filled)) if token != self.tokens.listen]
        prompt = Prompt(_ESCAPED.sub(lambda match: self._reserved[int(match[1])], text), ids)
        self._find_bounds(prompt, media)
        return prompt

    def _picture_text(self, picture: PromptPicture, image_id: int | None) -> str:
        head = "" if image_id is None else f"<image_id>{image_id}</image_id>"
        rows = [self._slice_text * picture.columns] * picture.rows
        return head + self._image_text + "\n".join(rows)

    def _find_bounds(self, prompt: Prompt, media: Sequence[PromptPicture | PromptSound]) -> None:
        tokens = self.tokens
        wanted_images = sum(1 + m.columns * m.rows for m in media if isinstance(m, PromptPicture))
        wanted_sounds = [m.embeddings for m in media if isinstance(m, PromptSound)]
        for place, token in enumerate(prompt.ids):
            if token in (tokens.image_start, tokens.slice_start):
                prompt.image_bounds.append((place + 1, place + 1 + self.image_rows))
            elif token == tokens.audio_start:
                rows = wanted_sounds[len(prompt.audio_bounds) :][:1] or [0]
                prompt.audio_bounds.append((place + 1, place + 1 + rows[0]))
        spans = prompt.image_bounds + prompt.audio_bounds
        ends = {tokens.image_end, tokens.slice_end, tokens.audio_end}
        fits = all(end < len(prompt.ids) and prompt.ids[end] in ends for _, end in spans)
        if (
            not fits
            or len(prompt.image_bounds) != wanted_images
            or len(prompt.audio_bounds) != len(wanted_sounds)
        ):
            raise PromptError("the text holds tokens that look like media")

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        pieces = _ESCAPED.split(text)
        for place, piece in enumerate(pieces):
            if place % 2:
                ids += self.tokens.encode_literal(self._reserved[int(piece)])
            elif piece:
                ids += self.tokens.encode(piece)
        return ids
