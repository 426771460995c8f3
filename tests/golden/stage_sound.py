"""Replay of the sound that comes in: log-mel, Whisper, projection; whole sounds and the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.dsp.logmel import ChunkQueue, LogMel, first_fill, pieces
from engine.dsp.streaming_logmel import StreamingLogMel, chunk_features
from engine.gpu.kv.cache import NativeKV
from engine.gpu.weights import empty
from engine.minicpmo.encoders.audio import AudioEncoder as Hearing
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder, conv_frames
from tests.golden.golden_set import GoldenSet
from tests.golden.report import TENSOR, Report
from tests.golden.stage_prompts import input_name


@dataclass(frozen=True)
class AudioEncoder:
    """The modules between samples and the LLM."""

    mel: LogMel
    encoder: WhisperEncoder
    projector: AudioProjector


def load_ears(golden: GoldenSet) -> AudioEncoder:
    config, place = golden.config, golden.place
    encoder = empty(lambda: WhisperEncoder(config.audio))
    projector = empty(lambda: AudioProjector(config.audio, config.llm.hidden_size))
    with golden.checkpoint() as checkpoint:
        checkpoint.load(encoder, "apm.", device=place.device, dtype=place.dtype)
        prefix = "audio_projection_layer."
        checkpoint.load(projector, prefix, device=place.device, dtype=place.dtype)
    return AudioEncoder(LogMel(config.audio.num_mel_bins, place.device), encoder, projector)


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Compare whole sounds, then the stream: `batch` sessions, every second one a unit later."""
    audio = load_ears(golden)
    for prefix, key, sounds, entries in _wholes(golden):
        rows = [row for sound in sounds for row in pieces(sound)]
        for place, entry in enumerate(entries):
            taken, rows = rows[: len(entry["mel_lens"])], rows[len(entry["mel_lens"]) :]
            _whole(golden, report, audio, (f"{prefix}{entry['name']}", taken * batch, entry))
            facts = {
                "mel_lens": audio.mel.whole(taken)[1],
                "embeddings": [audio.projector.count(n) for n in audio.mel.whole(taken)[1]],
            }
            for name, ours in facts.items():
                report.equal(f"{key}.whole_audio.{place}.{name}", ours, entry[name], "own")
    if golden.trace.get("duplex", {}).get("units"):
        _stream(golden, report, audio, batch)
        _stream_stored(golden, report, audio)
        if golden.place.is_narrow:
            _by_graphs(golden, report, audio, batch)


def _wholes(golden: GoldenSet) -> Iterator[tuple[str, str, list[Tensor], list[dict[str, Any]]]]:
    """Yield prefix, trace key, sounds and stored facts of every place with whole sounds."""
    prepare = golden.trace.get("duplex", {}).get("prepare", {})
    if prepare.get("whole_audio"):
        sounds = [golden.sound("ref_audio_i16")]
        yield "duplex/prepare.", "trace/duplex.prepare", sounds, prepare["whole_audio"]
    for name, chat in golden.trace.get("chat", {}).items():
        if chat.get("whole_audio"):
            content = [part for message in chat["messages"] for part in message["content"]]
            sounds = _sounds(golden, content)
            yield f"chat/{name}.", f"trace/chat.{name}", sounds, chat["whole_audio"]
    for name, part in golden.trace.get("half_duplex", {}).items():
        if part.get("whole_audio"):
            sounds = _sounds(golden, part["content"])
            if part["role"] == "user":
                sounds = [F.pad(x, (max(0, first_fill() - x.shape[0]), 0)) for x in sounds]
            key = f"trace/half_duplex.{name}"
            yield f"half_duplex/{name}.", key, sounds, part["whole_audio"]


def _sounds(golden: GoldenSet, content: list[str]) -> list[Tensor]:
    names = [name for name in map(input_name, content) if name is not None]
    return [golden.sound(name) for name in names if golden.host(f"inputs/{name}").ndim == 1]


def _whole(
    golden: GoldenSet,
    report: Report,
    audio: AudioEncoder,
    case: tuple[str, list[Tensor], dict[str, Any]],
) -> None:
    key, sounds, entry = case
    in_blocks = entry["chunk_length"] > 0
    mel, lengths = audio.mel.whole(sounds)
    hidden = audio.encoder.encode(mel, lengths, in_blocks=in_blocks)
    stored_mel, stored_hidden = golden.tensor(f"{key}.mel"), golden.tensor(f"{key}.enc")
    stored_rows, stored_lengths = stored_mel.shape[0], entry["mel_lens"]
    from_mel = audio.encoder.encode(stored_mel, stored_lengths, in_blocks=in_blocks)
    for row, length in enumerate(lengths):
        frames, place = conv_frames(length), row % stored_rows
        stored_row = stored_hidden[place, :frames]
        report.add(f"{key}.mel", mel[row, :, :length], stored_mel[place, :, :length], TENSOR, "own")
        report.add(f"{key}.enc", hidden[row, :frames], stored_row, TENSOR, "own")
        if row < stored_rows:
            report.add(f"{key}.enc", from_mel[row, :frames], stored_row, TENSOR, "stored")
    for kind, source in (("own", hidden), ("stored", stored_hidden.to(hidden.dtype))):
        for start in range(0, source.shape[0], stored_rows):
            rows = [
                audio.projector(source[start + row : start + row + 1])[0][
                    : audio.projector.count(n)
                ]
                for row, n in enumerate(stored_lengths)
            ]
            report.add(f"{key}.embed", torch.cat(rows), golden.tensor(f"{key}.embed"), TENSOR, kind)


def _stream(golden: GoldenSet, report: Report, audio: AudioEncoder, batch: int) -> None:
    """From samples; sessions share every forward, in an order that changes from step to step."""
    units = [unit for unit in golden.units if unit.get("audio")]
    streams = StreamingLogMel(audio.mel, batch)
    cache = NativeKV(audio.encoder.cache_spec(), batch)
    queues = [ChunkQueue() for _ in range(batch)]
    delays = [slot % 2 for slot in range(batch)]
    for step in range(len(units) + max(delays)):
        slots = [slot for slot in range(batch) if 0 <= step - delays[slot] < len(units)]
        slots = slots[::-1] if step % 2 else slots
        now = [units[step - delays[slot]] for slot in slots]
        chunks: list[Tensor] = []
        for slot, unit in zip(slots, now, strict=True):
            sound = golden.unit_sound(unit)
            assert sound is not None
            queues[slot].push(sound)
            chunk = queues[slot].take()
            assert chunk is not None
            chunks.append(chunk)
        first = [streams.calls(slot) == 0 for slot in slots]
        mel, lengths = streams.push(slots, chunks)
        before = [cache.lengths[slot] for slot in slots]
        reset = [audio.encoder.resets(cache, slot) for slot in slots]
        hidden = audio.encoder.stream(mel, cache, slots, first)
        projected = audio.projector.project(hidden)
        pooled = audio.projector.pool(projected)
        for row, (slot, unit) in enumerate(zip(slots, now, strict=True)):
            name = f"duplex/u{unit['unit']:02d}"
            ours = {
                "mel": mel[row : row + 1, :, -lengths[row] :],
                "audio_enc": hidden[row : row + 1],
                "audio_proj": projected[row : row + 1],
                "audio_embed": pooled[row],
            }
            for key, value in ours.items():
                if f"{name}.{key}" in golden:
                    report.add(
                        f"{name}.{key}", value, golden.tensor(f"{name}.{key}"), TENSOR, "own"
                    )
            facts = {
                "mel_frames": lengths[row],
                "cached_before": before[row],
                "cached_after": cache.lengths[slot],
                "new_frames": hidden.shape[1],
                "embeddings": pooled.shape[1],
                "cache_reset": reset[row],
                "dynamic_floor": streams.is_dynamic(slot),
            }
            _facts(report, unit, facts)


def _facts(report: Report, unit: dict[str, Any], facts: dict[str, Any]) -> None:
    for name, ours in facts.items():
        stored = unit["audio"].get(name)
        if name == "cached_before" and unit["audio"].get("cache_reset") and stored == 0:
            # Nothing is cached any more once the cache has been dropped.
            ours = 0
        report.equal(f"trace/duplex.u{unit['unit']:02d}.audio.{name}", ours, stored, "own")


def _stream_stored(golden: GoldenSet, report: Report, audio: AudioEncoder) -> None:
    """Encoder from the stored log-mel, projection from the stored encoder output."""
    cache = NativeKV(audio.encoder.cache_spec(), 1)
    first = True
    for unit in golden.units:
        name = f"duplex/u{unit['unit']:02d}"
        if f"{name}.mel" not in golden:
            continue
        mel = golden.tensor(f"{name}.mel")
        mel = F.pad(mel, (chunk_features() - mel.shape[2], 0))
        hidden = audio.encoder.stream(mel, cache, [0], [first])
        first = False
        stored_hidden = golden.tensor(f"{name}.audio_enc")
        report.add(f"{name}.audio_enc", hidden, stored_hidden, TENSOR, "stored")
        projected = audio.projector.project(stored_hidden.to(golden.place.dtype))
        if f"{name}.audio_proj" in golden:
            stored = golden.tensor(f"{name}.audio_proj")
            report.add(f"{name}.audio_proj", projected, stored, TENSOR, "stored")
        pooled = audio.projector.pool(projected)[0]
        stored = golden.tensor(f"{name}.audio_embed")
        report.add(f"{name}.audio_embed", pooled, stored, TENSOR, "stored")


def _by_graphs(golden: GoldenSet, report: Report, audio: AudioEncoder, batch: int) -> None:
    """The same stream as the engine runs it: from samples to embeddings in one graph."""
    mels, cache = StreamingLogMel(audio.mel, batch), NativeKV(audio.encoder.cache_spec(), batch)
    hearing = Hearing(mels, audio.encoder, audio.projector, cache, golden.place.pool())
    hearing.warm_up(batch, lambda text: None)
    queues = [ChunkQueue() for _ in range(batch)]
    for unit in golden.units:
        sound = golden.unit_sound(unit)
        if sound is None:
            continue
        chunks: dict[int, Tensor] = {}
        for slot, queue in enumerate(queues):
            queue.push(sound)
            chunk = queue.take()
            assert chunk is not None
            chunks[slot] = chunk
        key = f"duplex/u{unit['unit']:02d}.audio_embed"
        for embeds in hearing.hear(chunks).values():
            report.add(key, embeds, golden.tensor(key), TENSOR, "graphs")
