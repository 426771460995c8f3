"""Text, pictures and sound of a conversation as the ids and embedding rows that the model reads.

Foreign text is never allowed to spell a special token unless the caller says that it is trusted.
Source: the checkpoint's chat template and the MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from torch import Tensor

from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.config import OmniConfig

Role = Literal["system", "user", "assistant"]

IMAGE_ROW = -1
"""Stands for one row of a picture's embedding in the ids of a unit."""
AUDIO_ROW = -2
"""Stands for one row of a sound's embedding in the ids of a unit."""

IMAGE_SLOT = "<image>./</image>"
AUDIO_SLOT = "<audio>./</audio>"

DUPLEX_SYSTEM = "Streaming Omni Conversation."

# Private-use characters around the number of a string that must not become a special token.
_OPEN, _CLOSE = "\ue000", "\ue001"
_ESCAPED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")

VOICE_PROMPTS: dict[tuple[str, str], tuple[str, str]] = {
    ("omni", "en"): (
        "Clone the voice in the provided audio prompt.",
        "As an assistant, you will speak using this voice style.",
    ),
    ("omni", "zh"): (
        "模仿音频样本的音色并生成新的内容。",
        "请用这种声音风格来为用户提供帮助。 请认真、高质量地回复用户的问题。 "
        "请用高自然度的方式和用户聊天。",
    ),
    ("audio_assistant", "en"): (
        "Use the voice in the audio prompt to synthesize new content.",
        "You are a helpful assistant with the above voice style.",
    ),
    ("audio_assistant", "zh"): (
        "模仿音频样本的音色并生成新的内容。",
        "你的任务是用这种声音模式来当一个助手。请认真、高质量地回复用户的问题。"
        "请用高自然度的方式和用户聊天。你是由面壁智能开发的人工智能助手：面壁小钢炮。",
    ),
    ("audio_roleplay", "en"): (
        "Clone the voice in the provided audio prompt.",
        "Try to role-play the character based on the audio prompt above.",
    ),
    ("audio_roleplay", "zh"): (
        "模仿输入音频中的声音特征。",
        "假装你是上述音频中的人物，与我进行对话。",
    ),
    ("voice_cloning", "en"): ("Clone the voice in the provided audio prompt.", ""),
    ("voice_cloning", "zh"): ("模仿输入音频中的声音特征。", ""),
}
"""What stands before and behind the reference voice in a system message, by mode and language."""


class PromptError(ValueError):
    """A prompt does not fit together or is too long; the client can mend it."""


def check_instructions(taken: int, limit: int) -> None:
    """Raise `PromptError` if a system message of `taken` positions leaves none for anything."""
    if taken >= limit:
        raise PromptError(
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


PromptPart = str | PromptPicture | PromptSound


@dataclass(frozen=True, slots=True)
class PromptMessage:
    role: Role
    parts: tuple[PromptPart, ...]


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

    def weave(self, images: Sequence[Tensor], sounds: Sequence[Tensor]) -> list[list[int] | Tensor]:
        """Return ids and embeddings [rows, C] in order; raises `PromptError` if they do not fit."""
        return _weave(self.ids, self.image_bounds, self.audio_bounds, images, sounds)


class PromptBuilder:
    """Renders prompts for one checkpoint. Immutable, shared by all sessions."""

    def __init__(self, tokens: OmniTokenizer, config: OmniConfig) -> None:
        self.tokens = tokens
        self.image_rows = config.resampler.num_queries
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(tokens.chat_template)
        self._image_text = "<image>" + "<unk>" * self.image_rows + "</image>"
        self._slice_text = "<slice>" + "<unk>" * self.image_rows + "</slice>"
        # Longest first, so that none hides another.
        self._reserved = tuple(sorted({*tokens.added, _OPEN, _CLOSE}, key=len, reverse=True))
        self._reserved_at = re.compile("|".join(re.escape(text) for text in self._reserved))

    # ------------------------------------------------------------------ full duplex

    def duplex_prefix(self, text: str = DUPLEX_SYSTEM, *, trusted: bool = False) -> list[int]:
        """What is fed before the embeddings of the reference voice."""
        return self._encode(f"<|im_start|>system\n{self._safe(text, trusted)}\n<|audio_start|>")

    def duplex_suffix(self) -> list[int]:
        """What is fed behind the embeddings of the reference voice."""
        return self._encode("<|audio_end|><|im_end|>")

    def unit(self, images: Sequence[int], audio_rows: int) -> list[int]:
        """The start of a unit: ids with `IMAGE_ROW` and `AUDIO_ROW` where embeddings go.

        `images`: for each picture of the unit, the images it was cut into, the source included.
        """
        tokens = self.tokens
        rows = [IMAGE_ROW] * self.image_rows
        ids = [tokens.unit_start]
        for count in images:
            assert count > 0, f"a picture of {count} images"
            ids += [tokens.image_start, *rows, tokens.image_end]
            ids += [tokens.slice_start, *rows, tokens.slice_end] * (count - 1)
        return ids + [AUDIO_ROW] * audio_rows

    def weave_unit(
        self, ids: Sequence[int], images: Sequence[Tensor], sounds: Sequence[Tensor]
    ) -> list[list[int] | Tensor]:
        """Return ids and embeddings of a unit in order, like `Prompt.weave`."""
        size = self.image_rows
        starts = [
            place
            for place, token in enumerate(ids)
            if token == IMAGE_ROW and ids[place - 1] != IMAGE_ROW
        ]
        audio = [place for place, token in enumerate(ids) if token == AUDIO_ROW]
        return _weave(
            ids,
            [(start, start + size) for start in starts],
            [(audio[0], audio[-1] + 1)] if audio else [],
            images,
            sounds,
        )

    # ------------------------------------------------------------------ turns

    def chat(
        self,
        messages: Sequence[PromptMessage],
        *,
        open_answer: bool = False,
        thinking: bool | None = None,
        speak: bool = False,
        joined: bool = False,
        image_ids: bool = True,
        trusted: bool = False,
        max_tokens: int | None = None,
    ) -> Prompt:
        """Render a whole conversation with the checkpoint's template.

        `open_answer` ends it with the start of an answer, where `thinking` False closes the
        thinking at once and `speak` opens spoken text; otherwise `answer_opening` is fed next.
        `joined` puts nothing between the parts of a message instead of line ends. Raises
        `PromptError` if the prompt is longer than `max_tokens`.
        """
        glue = "" if joined else "\n"
        rendered = self._render(
            [
                {"role": message.role, "content": self._content(message, glue, trusted)}
                for message in messages
            ],
            add_generation_prompt=open_answer,
            **({} if thinking is None else {"enable_thinking": thinking}),
            **({"use_tts_template": True} if speak else {}),
        )
        parts = [part for message in messages for part in message.parts]
        prompt = self._fill(rendered, parts, image_ids=image_ids)
        if max_tokens is not None and len(prompt) > max_tokens:
            raise PromptError(f"the prompt has {len(prompt)} tokens, at most {max_tokens}")
        return prompt

    def answer_opening(self, *, thinking: bool = False, speak: bool = True) -> list[int]:
        """What closes the user's turn and opens the answer."""
        text = "<|im_end|>\n<|im_start|>assistant\n"
        text += "" if thinking else "<think>\n\n</think>\n\n"
        return self._encode(text + ("<|tts_bos|>" if speak else ""))

    def half_duplex(
        self,
        message: PromptMessage,
        *,
        answered: bool = False,
        continues: bool = False,
        image_ids: bool = False,
        first_image: int = 0,
        trusted: bool = False,
    ) -> Prompt:
        """Render one prefill of half duplex; a user's turn is left open for further segments.

        `answered`: an answer was generated since the last user turn and is still open.
        `continues`: a further segment of the same turn.
        """
        content = self._content(message, "", trusted)
        if message.role == "system":
            text = f"<|im_start|>system\n{content}<|im_end|>\n"
        elif message.role != "user":
            raise PromptError(f"half duplex prefills no message of the {message.role}")
        elif continues:
            text = content
        else:
            text = f"<|im_start|>user\n{content}"
            text = f"<|tts_eos|><|im_end|>\n{text}" if answered else text
        return self._fill(text, message.parts, image_ids=image_ids, first_image=first_image)

    def aside(self, instructions: str) -> list[int]:
        """Instructions for one answer, between the user's open message and the answer's opening.

        Without them the message is closed and the answer opened as if they had never been there.
        """
        return self._encode(f"<|im_end|>\n<|im_start|>system\n{self._safe(instructions, False)}")

    # ------------------------------------------------------------------ pieces

    def _render(self, messages: list[dict[str, str]], **flags: bool) -> str:
        try:
            rendered: str = self._template.render(messages=messages, tools=None, **flags)
        except TemplateError as error:
            raise PromptError(f"the chat template refuses this conversation: {error}") from error
        return rendered

    def _content(self, message: PromptMessage, glue: str, trusted: bool) -> str:
        pieces: list[str] = []
        for part in message.parts:
            if isinstance(part, PromptPicture):
                pieces.append(IMAGE_SLOT)
            elif isinstance(part, PromptSound):
                pieces.append(AUDIO_SLOT)
            else:
                # An answer of ours may hold thinking, which the template takes out of history.
                kept = ("<think>", "</think>") if message.role == "assistant" else ()
                pieces.append(self._safe(part, trusted, kept))
        return glue.join(pieces)

    def _safe(self, text: str, trusted: bool, kept: Sequence[str] = ()) -> str:
        """Take special tokens and slots out of foreign text, to be encoded as mere characters."""
        if trusted:
            return text

        def escape(match: re.Match[str]) -> str:
            if match[0] in kept:
                return match[0]
            return f"{_OPEN}{self._reserved.index(match[0])}{_CLOSE}"

        return self._reserved_at.sub(escape, text)

    def _fill(
        self, text: str, parts: Sequence[PromptPart], *, image_ids: bool, first_image: int = 0
    ) -> Prompt:
        media = [part for part in parts if not isinstance(part, str)]
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


def _weave(
    ids: Sequence[int],
    image_bounds: Sequence[tuple[int, int]],
    audio_bounds: Sequence[tuple[int, int]],
    images: Sequence[Tensor],
    sounds: Sequence[Tensor],
) -> list[list[int] | Tensor]:
    if len(images) != len(image_bounds) or len(sounds) != len(audio_bounds):
        raise PromptError(
            f"{len(images)} images and {len(sounds)} sounds for {len(image_bounds)} and "
            f"{len(audio_bounds)} places"
        )
    spans = sorted(
        [
            *zip(image_bounds, images, strict=True),
            *zip(audio_bounds, sounds, strict=True),
        ],
        key=lambda item: item[0],
    )
    woven: list[list[int] | Tensor] = []
    done = 0
    for (start, end), rows in spans:
        if rows.shape[0] != end - start:
            raise PromptError(f"{rows.shape[0]} embeddings for {end - start} places")
        if start > done:
            woven.append(list(ids[done:start]))
        if end > start:
            woven.append(rows)
        done = end
    if done < len(ids):
        woven.append(list(ids[done:]))
    return woven


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _raise(message: str) -> None:
    raise TemplateError(message)
