"""Each event of a session as the server events of OpenAI Realtime that tell it. Media worker."""

import base64
from collections.abc import Iterator
from typing import Any, assert_never

import msgspec

from signaling.realtime import extension_events as ours
from signaling.realtime import server_events as wire
from signaling.session import events as ev
from signaling.session.core import SessionCore
from signaling.session.items import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    ShownPart,
)
from signaling.settings import Modality, SessionSettings


def rendered_item(item: Item) -> wire.Item:
    """Render an item as events show it."""
    match item:
        case MessageItem():
            content = tuple(_part(part, item.role) for part in item.parts)
            return wire.WireMessage(id=item.id, role=item.role, status=item.status, content=content)
        case FunctionCallItem():
            return wire.WireFunctionCall(
                id=item.id,
                call_id=item.call_id,
                name=item.name,
                arguments=item.arguments,
                status=item.status,
            )
        case FunctionOutputItem():
            return wire.WireFunctionOutput(id=item.id, call_id=item.call_id, output=item.output)


def _part(part: ShownPart, role: str) -> wire.WirePart:
    match part.kind:
        case "image":
            return wire.WirePart(type="input_image")
        case "video":
            return wire.WirePart(type="input_video")
        case "audio" if role == "assistant":
            return wire.WirePart(type="output_audio", transcript=part.text)
        case "audio":
            return wire.WirePart(type="input_audio", transcript=part.text)
        case "text" if role == "assistant":
            return wire.WirePart(type="output_text", text=part.text or "")
        case "text":
            return wire.WirePart(type="input_text", text=part.text or "")
        case _:
            assert_never(part.kind)


def conversation_id(session_id: str) -> str:
    """Return the id of a session's only conversation."""
    return f"conv_{session_id.partition('_')[2]}"


def rendered_response(response: ev.ResponseInfo, core: SessionCore) -> wire.Response:
    return wire.Response(
        id=response.id,
        status=response.status,
        output=tuple(map(rendered_item, response.output)),
        output_modalities=(response.modality,),
        status_details=_details(response),
        usage=None if response.usage is None else _usage(response.usage),
        metadata=response.metadata,
        audio={"output": _sound(core.settings)} if response.modality == "audio" else None,
        max_output_tokens=response.max_output_tokens or "inf",
        conversation_id=None if response.is_out_of_band else conversation_id(core.session_id),
    )


def _usage(usage: ev.Usage) -> dict[str, Any]:
    told: dict[str, Any] = {
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if read := usage.input_shares.counted():
        told["input_token_details"] = read
    if written := usage.output_shares.counted():
        told["output_token_details"] = written
    return told


def _sound(settings: SessionSettings) -> dict[str, Any]:
    output = settings.audio.output
    return {"format": msgspec.to_builtins(output.format), "voice": output.voice_name}


def _details(response: ev.ResponseInfo) -> dict[str, Any] | None:
    match response.status:
        case "failed":
            error = {"type": "server_error", "code": "engine", "message": response.reason or ""}
            return {"type": "failed", "error": error}
        case "incomplete" | "cancelled":
            return {"type": response.status, "reason": response.reason}
    return None


def session_events(event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
    """Render events of the session itself, apart from its settings."""
    match event:
        case ev.QueueMoved():
            yield ours.SessionQueued(position=event.position, eta_s=event.eta_s)
        case ev.SessionGoesOn():
            items = tuple(map(rendered_item, event.items))
            yield ours.SessionContinued(items=items, responses=event.responses)
        case ev.Notice():
            yield ours.SessionWarningEvent(code=event.code, message=event.message)
        case ev.Figures():
            yield ours.Metrics(metrics=event.figures)
        case ev.OverlapDecided():
            figures = {
                "overlap": event.decision,
                "overlap_start_ms": event.start_ms,
                "overlap_decided_ms": event.took_ms,
            }
            yield ours.Metrics(metrics=figures)
        case ev.Refusal():
            yield wire.error_event(event.error)
        case ev.PartDropped():
            where = f"item.content.{event.part}"
            told = f"{where} of the item {event.item_id!r} is left out: {event.reason}."
            yield wire.error(told, code="part_left_out", param=where)
        case ev.SessionOver():
            if event.is_failure:
                yield wire.error(event.message, code=event.reason, type="server_error")
            yield ours.SessionEndedEvent(reason=event.reason, message=event.message)


def rest_events(event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
    """Render hush, mute and pause, and their ends."""
    match event:
        case ev.InputHushed():
            yield ours.ForceListenUpdated(on=event.is_on)
        case ev.InputMuted():
            yield ours.MutedEvent(on=event.is_muted)
        case ev.CallPaused():
            yield ours.PausedEvent(slot_kept_s=event.slot_kept_s)
        case ev.CallResumed():
            yield ours.ResumedEvent(kept=event.kept)


def speech_events(event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
    """Render the user's speech."""
    match event:
        case ev.UserStartedSpeaking():
            yield wire.SpeechStartedEvent(item_id=event.item_id, audio_start_ms=event.start_ms)
        case ev.UserStoppedSpeaking():
            yield wire.SpeechStoppedEvent(item_id=event.item_id, audio_end_ms=event.end_ms)
        case ev.UserTimedOut():
            yield wire.InputTimedOut(
                item_id=event.item_id, audio_start_ms=event.start_ms, audio_end_ms=event.end_ms
            )
        case ev.TurnCommitted():
            yield wire.InputCommitted(item_id=event.item_id, previous_item_id=event.after)
        case ev.InputForgotten():
            yield wire.InputCleared()
        case ev.TranscriptGrew():
            yield wire.TranscriptionDelta(item_id=event.item_id, delta=event.text)
        case ev.TranscriptCompleted():
            seconds = (event.end_ms - event.start_ms) / 1000
            yield wire.TranscriptionCompleted(
                item_id=event.item_id, transcript=event.text, usage=wire.duration_usage(seconds)
            )
        case ev.TranscriptFailed():
            error = {"type": "transcription_error", "code": event.code, "message": event.message}
            yield wire.TranscriptionFailed(item_id=event.item_id, error=error)


def item_events(event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
    """Render items that are no answer."""
    match event:
        case ev.ItemPlaced():
            item = rendered_item(event.item)
            yield wire.ItemAddedEvent(item=item, previous_item_id=event.after)
            yield wire.ItemDone(item=item, previous_item_id=event.after)
        case ev.ItemRemoved():
            yield wire.ItemDeleted(item_id=event.item_id)
        case ev.ItemCut():
            yield wire.ItemTruncated(item_id=event.item_id, audio_end_ms=event.end_ms)


def response_events(event: ev.SessionEvent, core: SessionCore) -> Iterator[wire.ServerEvent]:
    """Render an answer, except for its sound."""
    match event:
        case ev.ResponseBegan():
            yield wire.ResponseCreated(response=rendered_response(event.response, core))
            yield wire.RateLimitsUpdated()
        case ev.OutputStarted():
            yield from _output_started(event)
        case ev.WordsReleased():
            delta = wire.AudioTranscriptDelta
            yield (delta if event.modality == "audio" else wire.OutputTextDelta)(
                response_id=event.response_id,
                item_id=event.item_id,
                output_index=event.index,
                delta=event.text,
            )
        case ev.ArgumentsGrew():
            yield wire.FunctionArgumentsDelta(
                response_id=event.response_id,
                item_id=event.item_id,
                output_index=event.index,
                call_id=event.call_id,
                delta=event.text,
            )
        case ev.OutputEnded():
            yield from _output_ended(event)
        case ev.ResponseEnded():
            yield wire.ResponseDoneEvent(response=rendered_response(event.response, core))


def audio_delta(event: ev.SpeechReleased, sound: bytes) -> wire.ServerEvent:
    """Render sound of an answer in the client's format."""
    return wire.OutputAudioDelta(
        response_id=event.response_id,
        item_id=event.item_id,
        output_index=event.index,
        delta=base64.b64encode(sound).decode(),
    )


def buffer_events(event: ev.SessionEvent) -> Iterator[wire.ServerEvent]:
    """Render the state of the sound on the track."""
    match event:
        case ev.ResponseAudible():
            yield wire.OutputBufferStarted(response_id=event.response_id)
        case ev.PlayoutEnded() if event.is_cut:
            yield wire.OutputBufferCleared(response_id=event.response_id)
        case ev.PlayoutEnded():
            yield wire.OutputBufferStopped(response_id=event.response_id)


def _output_started(event: ev.OutputStarted) -> Iterator[wire.ServerEvent]:
    response = event.response
    item = rendered_item(event.item)
    yield wire.OutputItemAdded(response_id=response.id, output_index=event.index, item=item)
    if not response.is_out_of_band:
        yield wire.ItemAddedEvent(item=item, previous_item_id=event.after)
    if isinstance(event.item, MessageItem):
        yield wire.ContentPartAdded(
            response_id=response.id,
            output_index=event.index,
            item_id=event.item.id,
            part=_output_part(response.modality, ""),
        )


def _output_ended(event: ev.OutputEnded) -> Iterator[wire.ServerEvent]:
    response, item = event.response, event.item
    where: dict[str, Any] = {
        "response_id": response.id,
        "output_index": event.index,
        "item_id": item.id,
    }
    match item:
        case FunctionCallItem():
            yield wire.FunctionArgumentsDone(
                **where, call_id=item.call_id, name=item.name, arguments=item.arguments
            )
        case MessageItem():
            said = "".join(part.text or "" for part in item.parts)
            if response.modality == "audio":
                yield wire.OutputAudioDone(**where)
                yield wire.AudioTranscriptDone(**where, transcript=said)
            else:
                yield wire.OutputTextDone(**where, text=said)
            yield wire.ContentPartDone(**where, part=_output_part(response.modality, said))
    shown = rendered_item(item)
    yield wire.OutputItemDone(response_id=response.id, output_index=event.index, item=shown)
    if not response.is_out_of_band:
        yield wire.ItemDone(item=shown, previous_item_id=event.after)


def _output_part(modality: Modality, said: str) -> wire.WirePart:
    if modality == "audio":
        return wire.WirePart(type="audio", transcript=said)
    return wire.WirePart(type="text", text=said)
