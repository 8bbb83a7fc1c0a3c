"""Run an action in a process of its own that is killed at its n-th system call."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.unit.adapters_store.killing", "numpy", "adapters_store"])

# What touches files: the functions of `os` and `fcntl`, and the methods of open files.
_MODULES = {"posix", "fcntl"}
_METHODS = {"write", "flush", "close", "open"}


def killed_at(step: int, action: Callable[..., object], *args: object) -> bool:
    """Whether the action was killed at that step; False when it ended before so many."""
    process = _PROCESSES.Process(target=_run, args=(step, action, args))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    killed = process.exitcode != 0
    process.close()
    return killed


def _run(step: int, action: Callable[..., object], args: tuple[object, ...]) -> None:
    left = step

    def count(_frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and (called.__module__ in _MODULES or called.__name__ in _METHODS):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(count)
    action(*args)
    sys.setprofile(None)
