"""Tokenizer files for tests: byte-level BPE with a few merges and the released special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = (
    "Hello world, this is a good day to talk. What do you see, and what do you hear?",
    "You are a helpful assistant. Streaming Omni Conversation. The voice is nice. I see a cat.",
    "hello there, how are you doing today? We can talk about the weather or the music.",
    "你好，世界。今天天气很好。你看到了什么？",
)

MERGED = 360
"""Entries of bytes and merges."""

_WRAPPED = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
    "quad_end vision_start vision_end vision_pad image_pad video_pad"
).split()
_CODE = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep".split()
_PAIRS = (
    "image ref box quad point slice image_id unit answer focus line perception source_image "
    "image_save_to"
).split()
_SPEECH = (
    "audio_start audio audio_end spk_bos spk spk_eos tts_bos tts_eos listen speak interrupt "
    "vad_start vad_end emotion_start emotion_end speed_start speed_end pitch_start pitch_end "
    "turn_bos turn_eos chunk_eos chunk_bos chunk_tts_bos chunk_tts_eos tts_pad"
).split()

# ChatML; history loses its thinking, a trailing answer keeps an (empty) think block.
CHAT_TEMPLATE = """\
{%- set ns = namespace(last_query=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.last_query = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- set parts = message.content.split('</think>') %}
        {%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts|length > 1 else '' %}
        {%- if loop.last and loop.index0 > ns.last_query %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- parts[-1].lstrip('\\n') }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
    {%- if use_tts_template is defined and use_tts_template is true %}
        {{- '<|tts_bos|>' }}
    {%- endif %}
{%- endif %}"""


def special_tokens() -> list[tuple[str, bool]]:
    """The added tokens in the released order, and whether text leaves them out."""
    tokens = [(f"<|{name}|>", True) for name in _WRAPPED]
    tokens += [("<tool_call>", False), ("</tool_call>", False)]
    tokens += [(f"<|{name}|>", False) for name in _CODE]
    for name in ("tool_response", "think"):
        tokens += [(f"<{name}>", False), (f"</{name}>", False)]
    for name in _PAIRS:
        tokens += [(f"<{name}>", True), (f"</{name}>", True)]
    tokens += [(f"<|{name}|>", True) for name in _SPEECH]
    return tokens + [(f"<|timbre_{number}|>", True) for number in range(7, 32)]


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write the files and return the id of every token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=MERGED, initial_alphabet=alphabet)
    )
    tokenizer.model.save(str(folder))
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    for text in ("</s>", "<unk>"):
        vocabulary[text] = len(vocabulary)
    added = {text: len(vocabulary) + place for place, (text, _) in enumerate(special_tokens())}
    special = dict(special_tokens()) | {"<unk>": True}
    decoder = {
        str(token): _entry(text, special[text])
        for text, token in ({"<unk>": vocabulary["<unk>"]} | added).items()
    }
    settings: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 131072,
        "tokenizer_class": "MiniCPMOTokenizerFast",
        "bad_token_ids": sorted(vocabulary[char] for char in '#$&()*/:;@[]{}"'),
    }
    _dump(folder / "vocab.json", vocabulary)
    _dump(folder / "added_tokens.json", added)
    _dump(folder / "tokenizer_config.json", settings)
    _dump(
        folder / "special_tokens_map.json",
        {name: settings[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
    )
    return vocabulary | added


def _entry(text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, "special": special, **flags}


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
