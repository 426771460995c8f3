"""What is publicly known of the released MiniCPM-o 4.5: sizes and hashes of files, ids, codes.

From public repositories whose authors have it; where only the ends of a hash were published, those
are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

HUB_ID = "openbmb/MiniCPM-o-4_5"

TOTAL_SIZE = 18_743_575_332
"""`total_size` of the index."""
TENSORS = {
    "llm.": 399,
    "vpm.": 437,
    "resampler.": 13,
    "apm.": 367,
    "audio_projection_layer.": 4,
    "tts.": 194,
}
VOCABULARY = 151_748
BAD_TOKENS = 6965


@dataclass(frozen=True)
class KnownFile:
    """A file of the release: bytes, where known, and its SHA-256 as far as it was published."""

    size: int | None
    starts: str
    ends: str

    def has_hash(self, digest: str) -> bool:
        return digest.startswith(self.starts) and digest.endswith(self.ends)


FILES = {
    "config.json": KnownFile(None, "b0c03cf9", "6c1d"),
    "assets/token2wav/flow.pt": KnownFile(623_466_603, "15ccff24", "a115446"),
    "assets/token2wav/hift.pt": KnownFile(83_390_254, "3386cc88", "29879"),
    "assets/token2wav/campplus.onnx": KnownFile(28_303_423, "a6ac6a63", "f4d73"),
}

IDS = {
    "<unk>": 128_244,
    "</s>": 128_247,
    "<|endoftext|>": 151_643,
    "<|im_start|>": 151_644,
    "<|im_end|>": 151_645,
    "<think>": 151_667,
    "</think>": 151_668,
    "<focus>": 151_687,
    "</perception>": 151_692,
    "<|tts_bos|>": 151_703,
    "<|speak|>": 151_706,
    "<|turn_eos|>": 151_717,
    "<|chunk_eos|>": 151_718,
}

TEXTS = {
    "Hello world": [9707, 1879],
    "你好，世界！": [108386, 3837, 99489, 6313],
    "emoji 🥳🎵 café e\u0301": [37523, 11162, 98, 111, 145202, 51950, 3958],
    "混合<|chunk_eos|>emoji🥳": [105063, 151718, 37523, 145863],
    "<|im_start|>user\n你好 🥳<|im_end|>\n<|im_start|>assistant\n": [
        *(151644, 872, 198, 108386, 11162, 98, 111, 151645, 198, 151644, 77091, 198),
    ],
}
"""Ids that the release's own tokenizer gives."""
SPOKEN = {
    (99692, 3837, 108660, 59879): "好的，我已经按",
}
"""Ids that the model itself produced, and their text."""
