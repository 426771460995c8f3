"""Replay of the tokenizer and of the prompts; no network."""

from __future__ import annotations

from typing import Any

import torch

from engine.dsp.logmel import first_fill, mel_frames, pieces
from engine.minicpmo.encoders.slicing import plan_slices
from engine.minicpmo.llm.prompts import (
    PromptBuilder,
    PromptMessage,
    PromptPart,
    PromptPicture,
    PromptSound,
)
from engine.minicpmo.llm.tokenizer import OmniTokenizer, TextStream
from engine.minicpmo.models.audio.whisper import conv_frames
from tests.golden.chat_template import ChatTemplate, unit_ids
from tests.golden.golden_set import GoldenSet
from tests.golden.report import Report

KIND = "own"


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Compare ids, prompts, bounds and decoded text; `batch` makes no difference here."""
    builder = PromptBuilder(golden.tokens, golden.config)
    chats = golden.trace.get("chat", {})
    template = ChatTemplate(builder, golden.path) if chats else None
    _special_ids(golden, report)
    _duplex(golden, report, builder)
    for name, chat in chats.items():
        assert template is not None
        _chat(golden, report, template, name, chat)
    _half_duplex(golden, report, builder)


def input_name(part: str) -> str | None:
    """Return the name of an input in the place of a part of a message, None for text."""
    prefix, suffix = "<input ", ">"
    if part.startswith(prefix) and part.endswith(suffix):
        return part[len(prefix) : -len(suffix)]
    return None


def message_parts(
    golden: GoldenSet, content: list[str], max_slices: int, fill: int = 0
) -> tuple[PromptPart, ...]:
    """Turn the content of a stored message into parts; sounds are filled up to `fill` samples."""
    parts: list[PromptPart] = []
    for part in content:
        name = input_name(part)
        if name is None:
            parts.append(part)
        elif golden.host(f"inputs/{name}").ndim == 3:
            height, width = golden.picture(name).shape[:2]
            plan = plan_slices((width, height), golden.config.picture, max_slices)
            parts.append(PromptPicture(plan.columns, plan.rows))
        else:
            parts.append(PromptSound(_embeddings(golden, max(golden.sound(name).shape[0], fill))))
    return tuple(parts)


def chat_slices(golden: GoldenSet, chat: dict[str, Any]) -> int:
    return int(chat.get("max_slice_nums") or golden.config.picture.max_slices)


def _embeddings(golden: GoldenSet, samples: int) -> int:
    """Count the embeddings of a whole sound, piece by piece as it is encoded."""
    step = golden.config.audio.pool_step
    lengths = [mel_frames(piece.shape[0]) for piece in pieces(torch.zeros(samples))]
    return sum(conv_frames(length) // step for length in lengths)


def _special_ids(golden: GoldenSet, report: Report) -> None:
    tokens = golden.tokens
    for text, stored in golden.trace["set"].get("special_ids", {}).items():
        report.equal(f"trace/set.special_ids.{text}", tokens.id(text), stored, KIND)
    if "forbidden_ids" in golden.trace["set"]:
        stored_ids = sorted(golden.trace["set"]["forbidden_ids"])
        report.equal("trace/set.forbidden_ids", list(tokens.duplex_forbidden), stored_ids, KIND)


def _duplex(golden: GoldenSet, report: Report, builder: PromptBuilder) -> None:
    duplex = golden.trace.get("duplex")
    if duplex is None:
        return
    tokens = golden.tokens
    head, tail = "<|im_start|>system\n", "\n<|audio_start|>"
    text = duplex["prefix"].removeprefix(head).removesuffix(tail)
    prefix, suffix = builder.duplex_prefix(text, trusted=True), builder.duplex_suffix()
    report.equal("trace/duplex.prefix", f"{head}{text}{tail}", duplex["prefix"], KIND)
    report.equal("trace/duplex.suffix", tokens.decode(suffix), duplex["suffix"], KIND)
    report.equal("trace/duplex.prefix_ids", prefix, duplex["prefix_ids"], KIND)
    report.equal("trace/duplex.suffix_ids", suffix, duplex["suffix_ids"], KIND)
    for part in ("duplex", "duplex_tts_reset"):
        for unit in golden.trace.get(part, {}).get("units", []):
            key = f"trace/{part}.u{unit['unit']:02d}"
            if "text" in unit:
                ours = tokens.decode(unit["unit_ids"], skip_special=True)
                report.equal(f"{key}.text", ours, unit["text"], KIND)
            if part == "duplex":
                ids = unit_ids(builder, _image_counts(golden, unit), _audio_rows(unit))
                report.equal(f"{key}.sequence", ids, unit["sequence"][: len(ids)], "prefill")


def _image_counts(golden: GoldenSet, unit: dict[str, Any]) -> list[int]:
    counts = []
    for name in unit["inputs"]["images"]:
        height, width = golden.picture(name).shape[:2]
        slices = unit["inputs"]["max_slice_nums"]
        plan = plan_slices((width, height), golden.config.picture, slices)
        counts.append(plan.num_images)
    return counts


def _audio_rows(unit: dict[str, Any]) -> int:
    rows: int = unit["audio"]["embeddings"] if unit.get("audio") else 0
    return rows


def _chat(
    golden: GoldenSet, report: Report, template: ChatTemplate, name: str, chat: dict[str, Any]
) -> None:
    slices = chat_slices(golden, chat)
    messages = [
        PromptMessage(message["role"], message_parts(golden, message["content"], slices))
        for message in chat["messages"]
    ]
    prompt = template.render(messages, image_ids=chat.get("use_image_id", True))
    key = f"trace/chat.{name}"
    report.equal(f"{key}.prompt", prompt.text, chat["prompt"], KIND)
    report.equal(f"{key}.input_ids", prompt.ids, chat["input_ids"], KIND)
    report.equal(f"{key}.image_bound", [prompt.image_bounds], chat["image_bound"], KIND)
    report.equal(f"{key}.audio_bounds", [prompt.audio_bounds], chat["audio_bounds"], KIND)
    text_pieces = stream_pieces(golden.tokens, chat["chunks"])
    report.equal(f"{key}.text_pieces", text_pieces, chat["text_pieces"], KIND)
    report.equal(f"{key}.text", "".join(text for text, _ in text_pieces), chat["text"], KIND)


def stream_pieces(tokens: OmniTokenizer, chunks: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """Decode a streamed answer. A chunk holds its last token back until the next one or the end."""
    stream = TextStream(tokens)
    held: list[int] = []
    streamed: list[tuple[str, bool]] = []
    for chunk in chunks:
        ids, finished = [*held, *chunk["tokens"]], bool(chunk["finished"])
        ready, held = (ids, []) if finished else (ids[:-1], ids[-1:])
        streamed.append((stream.push(ready) + (stream.finish() if finished else ""), finished))
    return streamed


def _half_duplex(golden: GoldenSet, report: Report, builder: PromptBuilder) -> None:
    parts: dict[str, Any] = golden.trace.get("half_duplex", {})
    answers = [part for name, part in parts.items() if name.startswith("g")]
    user_before = False
    answers_before = 0
    for name, part in parts.items():
        key = f"trace/half_duplex.{name}"
        if name.startswith("p"):
            answered = sum(answer["kv_after"] <= part["kv_before"] for answer in answers)
            fill = first_fill() if part["role"] == "user" else 0
            slices = int(part.get("max_slice_nums") or 1)
            prompt = builder.half_duplex(
                PromptMessage(part["role"], message_parts(golden, part["content"], slices, fill)),
                answered=answered > 0,
                continues=user_before and answered == answers_before,
                trusted=True,
            )
            user_before, answers_before = part["role"] == "user", answered
            report.equal(f"{key}.prompt", prompt.text, part["prompt"], KIND)
            report.equal(f"{key}.input_ids", prompt.ids, part["input_ids"], KIND)
            report.equal(f"{key}.image_bound", [prompt.image_bounds], part["image_bound"], KIND)
            report.equal(f"{key}.audio_bounds", [prompt.audio_bounds], part["audio_bounds"], KIND)
        elif part["audio"]:
            # Pieces are tied to the sound that was ready; the text as a whole is what counts here.
            ours = "".join(text for text, _ in stream_pieces(golden.tokens, part["chunks"]))
            report.equal(f"{key}.text_pieces", ours, "".join(part["text_pieces"]), "joined")
        else:
            text_pieces = stream_pieces(golden.tokens, part["chunks"])
            report.equal(f"{key}.text_pieces", text_pieces, part["text_pieces"], KIND)
