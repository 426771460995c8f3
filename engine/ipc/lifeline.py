"""Tie a child process to its parent: it ends with the parent, and before it when memory runs out.

Imports nothing heavy: the recognisers' fork server, which must stay free of threads, uses it too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
OOM_FRONT = 50
OOM_WORKER = 200
OOM_ENGINE = 300
OOM_FORKSERVER = 100
OOM_RECOGNISER = 200
"""By how much more than its parent the kernel takes a process for bad, in thousandths of the memory
(proc(5), oom_score_adj). A recogniser costs one utterance, an engine or a media worker its calls,
the front everything."""
OOM_MOST = 1000


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when `parent_pid` dies, also if it has died already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def go_before_parent(more: int) -> None:
    """Have the kernel, out of memory, take this process rather than its parent by `more`.

    Called once in a process, and a forked one may call it again to stand higher than its parent.
    Does nothing where the system knows no such thing or forbids it.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as score:
            raised = min(OOM_MOST, int(score.read()) + more)
            score.seek(0)
            score.write(str(raised))
    except OSError:
        # Not Linux, or a sandbox without /proc: all processes stay equal.
        return
