"""The tokenizer: whole merges, special ids, and texts whose ids are known."""

from __future__ import annotations

from pathlib import Path

from engine.minicpmo.check.release import BAD_TOKENS, IDS, SPOKEN, TEXTS, VOCABULARY
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError


def check_words(folder: Path, config: OmniConfig) -> CheckSection:
    """Whether text becomes the ids that the model was trained with."""
    section = CheckSection("tokenizer")
    try:
        tokens = OmniTokenizer(folder)
    except (ConfigError, KeyError, ValueError) as error:
        section.fault(f"it cannot be read: {error}")
        return section
    source = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.json, merges.txt"
    section.facts |= {"source": source, "entries": tokens.size, "derived": tokens.derived_merges}
    if tokens.derived_merges:
        section.note(
            f"merges.txt lacks {tokens.derived_merges} merges; they are derived from vocab.json, "
            "and the published tokenizer.json has them"
        )
    else:
        section.ok(f"{source}: no merge is missing")
    if tokens.size > config.llm.vocab_size:
        section.fault(
            f"{tokens.size} entries, but the model has embeddings of {config.llm.vocab_size}"
        )
    if not tokens.calls_functions:
        section.note("it has no words for functions: tools cannot be called")
    if config.llm.vocab_size == VOCABULARY:
        _released(tokens, section)
    elif tokens.decode(tokens.encode("Hello world, 你好")) == "Hello world, 你好":
        section.note(
            f"its {tokens.size} entries are not the released {VOCABULARY}: ids not compared"
        )
    else:
        section.fault("what it encodes it does not decode")
    return section


def _released(tokens: OmniTokenizer, section: CheckSection) -> None:
    wrong = []
    for text, ident in IDS.items():
        try:
            found = tokens.id(text)
        except ConfigError:
            found = -1
        if found != ident:
            wrong.append(f"{text} is {found}, released {ident}")
    if len(tokens.bad_token_ids) != BAD_TOKENS:
        wrong.append(f"{len(tokens.bad_token_ids)} ids never spoken, released {BAD_TOKENS}")
    for text, ids in TEXTS.items():
        if (given := tokens.encode(text)) != ids:
            wrong.append(f"{text!r} becomes {given}, released {ids}")
    for given_ids, text in SPOKEN.items():
        if (decoded := tokens.decode(given_ids)) != text:
            wrong.append(f"{list(given_ids)} become {decoded!r}, released {text!r}")
    section.facts["wrong"] = len(wrong)
    if wrong:
        section.fault("ids are not the released ones:")
        section.table(wrong)
    else:
        section.ok(
            f"{len(IDS)} special ids and {len(TEXTS) + len(SPOKEN)} texts are as the model's own "
            "tokenizer has them"
        )
