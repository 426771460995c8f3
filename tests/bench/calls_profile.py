"""Who holds the interpreter of a process: samples by py-spy."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

RATE_HZ = 250
MOST_FUNCTIONS = 12


async def interpreter_shares(pid: int, seconds: float) -> dict[str, Any]:
    """Of all samples the share in which the lock was held; of these who held it, by thread."""
    tool = shutil.which("py-spy")
    if tool is None:
        return {"missing": "py-spy is not installed"}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "stacks"
        process = await asyncio.create_subprocess_exec(
            *(tool, "record", "--gil", "--threads", "--nonblocking", "--function"),
            *("-r", str(RATE_HZ), "-d", str(int(seconds)), "-f", "raw"),
            *("-o", str(path), "-p", str(pid)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await process.wait()
        text = path.read_text() if path.is_file() else ""
    return shares(text, seconds * RATE_HZ)


def shares(stacks: str, samples: float) -> dict[str, Any]:
    """`stacks`: one a line, outermost frame first, then how often."""
    threads: Counter[str] = Counter()
    functions: dict[str, Counter[str]] = {}
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if not count.isdecimal():
            continue
        names = frames.split(";")
        thread = re.sub(r"^thread \(\w+\)(: )?", "", names[0]).strip('"') or names[0]
        threads[thread] += int(count)
        inner = functions.setdefault(thread, Counter())
        for name in dict.fromkeys(names[1:]):
            inner[name] += int(count)
    held = sum(threads.values())
    return {
        "held": round(held / max(1.0, samples), 3),
        "threads": {name: round(count / max(1, held), 3) for name, count in threads.most_common()},
        "functions": {
            thread: {
                name: round(count / max(1, held), 3)
                for name, count in inner.most_common(3 * MOST_FUNCTIONS)
            }
            for thread, inner in functions.items()
        },
    }
