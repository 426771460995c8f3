"""Prompts that only the replay builds: whole conversations, and units as ids with places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.minicpmo.llm.prompts import (
    AUDIO_SLOT,
    IMAGE_SLOT,
    Prompt,
    PromptBuilder,
    PromptMessage,
    PromptPart,
    PromptPicture,
)
from engine.minicpmo.models.config_reader import read_json
from tests.golden.logits import AUDIO_ROW, IMAGE_ROW


class ChatTemplate:
    """Renders conversations with the chat template of a checkpoint; the text in them is trusted."""

    def __init__(self, builder: PromptBuilder, folder: Path) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        self._builder = builder
        self._template = environment.from_string(_source(folder))

    def render(self, messages: Sequence[PromptMessage], *, image_ids: bool = True) -> Prompt:
        """Render a whole conversation, a line end between the parts of a message."""
        contents = [
            {"role": message.role, "content": "\n".join(map(_text, message.parts))}
            for message in messages
        ]
        text = self._template.render(messages=contents, tools=None, add_generation_prompt=False)
        parts = [part for message in messages for part in message.parts]
        return self._builder.fill(text, parts, image_ids=image_ids)


def unit_ids(builder: PromptBuilder, images: Sequence[int], audio_rows: int) -> list[int]:
    """The start of a unit: ids with `IMAGE_ROW` and `AUDIO_ROW` where embeddings go.

    `images`: for each picture of the unit, the images it was cut into, the source included.
    """
    tokens = builder.tokens
    rows = [IMAGE_ROW] * builder.image_rows
    ids = [tokens.unit_start]
    for count in images:
        ids += [tokens.image_start, *rows, tokens.image_end]
        ids += [tokens.slice_start, *rows, tokens.slice_end] * (count - 1)
    return ids + [AUDIO_ROW] * audio_rows


def _text(part: PromptPart) -> str:
    if isinstance(part, str):
        return part
    return IMAGE_SLOT if isinstance(part, PromptPicture) else AUDIO_SLOT


def _source(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json")["chat_template"]
    assert isinstance(template, str)
    return template


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _raise(message: str) -> None:
    raise TemplateError(message)
