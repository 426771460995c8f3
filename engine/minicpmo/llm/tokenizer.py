"""The tokenizer: byte-level BPE of Qwen2, the special ids by name, and decoding that never splits
a character.

Nothing here is per session but `TextStream`, of which a session has one for each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from engine.minicpmo.llm.merges import Merges, read_merges
from engine.minicpmo.models.config_reader import ConfigError, read_json

# The pre-tokenizer of Qwen2: words, single digits, punctuation runs, line ends, spaces.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Characters that half-duplex speech must not contain. The original looks each one up as if it were
# a vocabulary entry, so that those outside ASCII stand for <unk> and stay allowed.
UNSPOKEN = ": ： ； # “ ” ‘ ’ @ * 【 】 「 」 ( ) （ ） [ ] & / $".split()

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class OmniTokenizer:
    """Everything between text and ids. Immutable, shared by all sessions.

    Special ids are attributes (`tokens.listen`); they are looked up by their strings.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the tokenizer files of a checkpoint folder; raises `ConfigError`."""
        folder = Path(path)
        settings = read_json(folder / "tokenizer_config.json")
        self._tokenizer, self.derived_merges = _build(folder, settings)
        """The second: how many merges had to be derived, see `engine.minicpmo.llm.merges`."""
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.bad_token_ids: tuple[int, ...] = tuple(sorted(set(settings.get("bad_token_ids", ()))))
        """Ids that speech must never contain, as the checkpoint lists them."""
        self.pad = self.id(_text_of(settings, "pad_token"))
        self.unk = self.id(_text_of(settings, "unk_token"))
        """Placeholder for embeddings of pictures and sound."""
        self.im_end = self.id("<|im_end|>")
        self.image_start = self.id("<image>")
        self.image_end = self.id("</image>")
        self.slice_start = self.id("<slice>")
        self.slice_end = self.id("</slice>")
        self.unit_start = self.id("<unit>")
        self.unit_end = self.id("</unit>")
        self.audio_start = self.id("<|audio_start|>")
        self.audio_end = self.id("<|audio_end|>")
        self.tts_bos = self.id("<|tts_bos|>")
        self.tts_eos = self.id("<|tts_eos|>")
        self.tts_pad = self.id("<|tts_pad|>")
        self.listen = self.id("<|listen|>")
        self.speak = self.id("<|speak|>")
        self.turn_eos = self.id("<|turn_eos|>")
        self.chunk_eos = self.id("<|chunk_eos|>")
        self.chunk_tts_eos = self.id("<|chunk_tts_eos|>")
        self.tool_call = self._find("<tool_call>")
        """-1, as the next one, where a checkpoint has no words for functions."""
        self.tool_call_end = self._find("</tool_call>")
        self.bpe_eos = self.id("</s>")
        """An ordinary vocabulary entry that half duplex treats as an end."""

    def id(self, text: str) -> int:
        """Return the id of one vocabulary entry or special token; raises `ConfigError`."""
        found: int | None = self._tokenizer.token_to_id(text)
        if found is None:
            raise ConfigError(f"the tokenizer has no token {text!r}")
        return found

    @property
    def calls_functions(self) -> bool:
        return self.tool_call >= 0 and self.tool_call_end >= 0

    def _find(self, text: str) -> int:
        found: int | None = self._tokenizer.token_to_id(text)
        return -1 if found is None else found

    def text(self, token: int) -> str:
        """Return the vocabulary entry of an id as the tokenizer spells it, empty if unknown."""
        return self._tokenizer.id_to_token(token) or ""

    def encode(self, text: str) -> list[int]:
        """Encode text in which the strings of special tokens stand for these tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_literal(self, text: str) -> list[int]:
        """Encode foreign text: what looks like a special token is only characters."""
        ids: list[int] = []
        for word in _split_specials(text, self.added):
            ids += self._literal_tokenizer.encode(word, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Decode ids; bytes that form no character become U+FFFD."""
        return self.bytes_of(ids, skip_special=skip_special).decode("utf-8", "replace")

    def bytes_of(self, ids: Sequence[int], *, skip_special: bool = False) -> bytes:
        """Return the UTF-8 bytes that ids spell; an id outside the vocabulary spells nothing."""
        pieces, special = self._pieces, self.special_ids
        size = len(pieces)
        return b"".join(
            pieces[token]
            for token in ids
            if 0 <= token < size and not (skip_special and token in special)
        )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `skip_special` leaves out."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token for token, entry in added.items() if entry.special)

    @cached_property
    def duplex_forbidden(self) -> tuple[int, ...]:
        """Ids that full duplex never speaks; `chunk_eos` is drawn before they are taken out."""
        return tuple(sorted({*self.bad_token_ids, self.tts_pad, self.chunk_eos}))

    @cached_property
    def half_duplex_forbidden(self) -> tuple[int, ...]:
        """Ids that half duplex with sound never speaks."""
        unspoken = {
            self.unk if found is None else found
            for found in map(self._tokenizer.token_to_id, UNSPOKEN)
        }
        return tuple(sorted({*self.bad_token_ids, *unspoken}))

    @cached_property
    def half_duplex_terminators(self) -> tuple[int, ...]:
        return (self.tts_eos, self.im_end, self.bpe_eos)

    @cached_property
    def added(self) -> tuple[str, ...]:
        """Strings of all added tokens, longest first."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(sorted((entry.content for entry in added), key=len, reverse=True))

    @cached_property
    def _literal_tokenizer(self) -> Tokenizer:
        plain = Tokenizer(self._tokenizer.model)
        plain.normalizer = self._tokenizer.normalizer
        plain.pre_tokenizer = self._tokenizer.pre_tokenizer
        return plain

    @cached_property
    def _pieces(self) -> list[bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        byte_of = _byte_of_character()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for text, token in vocabulary.items():
            if token in added:
                pieces[token] = added[token].content.encode()
            else:
                pieces[token] = b"".join(
                    bytes([byte_of[char]]) if char in byte_of else char.encode() for char in text
                )
        return pieces


class TextStream:
    """Decode an answer piece by piece; a piece never ends in half a character."""

    def __init__(self, tokens: OmniTokenizer, *, skip_special: bool = False) -> None:
        self._tokens = tokens
        self._skip_special = skip_special
        self._pending = b""

    def push(self, ids: Sequence[int]) -> str:
        """Take further ids and return the text that is certain by now."""
        data = self._pending + self._tokens.bytes_of(ids, skip_special=self._skip_special)
        text = data.decode("utf-8", "replace")
        ready = text.rstrip(REPLACEMENT)
        if ready == text:
            self._pending = b""
            return text
        # The bytes after `ready` wait for the rest of their character.
        end = next(
            end
            for end in range(len(data), -1, -1)
            if data[:end].decode("utf-8", "replace") == ready
        )
        self._pending = data[end:]
        return ready

    def finish(self) -> str:
        """Return what is left; bytes that never became a character are U+FFFD."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text


def _build(folder: Path, settings: dict[str, Any]) -> tuple[Tokenizer, int]:
    """The tokenizer, and the number of merges that its files lack."""
    whole, vocabulary, merges = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    entries = {int(token): entry for token, entry in settings["added_tokens_decoder"].items()}
    lacking = 0
    if whole.is_file():
        tokenizer = _read(partial(Tokenizer.from_file, str(whole)), whole)
    elif vocabulary.is_file() and merges.is_file():
        read = read_merges(vocabulary, merges, {entry["content"] for entry in entries.values()})
        tokenizer, lacking = _read(partial(_byte_level, read), merges), read.lacking
    else:
        raise ConfigError(f"{folder}: neither tokenizer.json nor vocab.json with merges.txt")
    for token, entry in sorted(entries.items()):
        flags = {name: entry[name] for name in ("lstrip", "rstrip", "single_word", "normalized")}
        special = bool(entry["special"])
        added = AddedToken(entry["content"], special=special, **flags)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
        if tokenizer.token_to_id(entry["content"]) != token:
            raise ConfigError(
                f"{folder}: {entry['content']} is id {tokenizer.token_to_id(entry['content'])} of "
                f"the vocabulary, {token} in tokenizer_config.json"
            )
    return tokenizer, lacking


def _read(make: Callable[[], Tokenizer], path: Path) -> Tokenizer:
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        raise ConfigError(f"{path}: {error}") from None


def _byte_level(read: Merges) -> Tokenizer:
    tokenizer = Tokenizer(BPE(vocab=read.vocabulary, merges=read.pairs))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _text_of(settings: dict[str, Any], key: str) -> str:
    value = settings.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ConfigError(f"tokenizer_config.json: {key} = {value!r}")
    return text


def _split_specials(text: str, specials: Iterable[str]) -> list[str]:
    """Cut text behind the first character of everything that reads like a special token."""
    for special in specials:
        if special in text:
            head, _, tail = text.partition(special)
            return [
                *_split_specials(head, specials),
                special[0],
                *_split_specials(special[1:] + tail, specials),
            ]
    return [text] if text else []


def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the rest for U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}
