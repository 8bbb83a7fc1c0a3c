"""Run an action in a process that is killed at its n-th call of the system, or of obstore."""

import fcntl
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import obstore

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["tests.unit.adapters_store.killing", "numpy", "adapters_store", "service.erasure.service"]
)

# What touches files: the functions of `os` and `fcntl`, and the methods of open files.
_MODULES = {"posix", "fcntl"}
_OBSTORE = {obstore.put, obstore.get, obstore.get_range, obstore.head, obstore.delete, obstore.list}
_METHODS = {"write", "flush", "close", "open"}
_CHANGES = {os.rename, os.replace, os.unlink, os.rmdir, os.mkdir, os.fsync, fcntl.flock}


Counted = Callable[[Any], bool]


def touches_files(called: Any) -> bool:
    """Tell whether a builtin is one of those above."""
    return called.__module__ in _MODULES or called.__name__ in _METHODS


def changes_files(called: Any) -> bool:
    """Tell whether a builtin changes what lies where, or locks it."""
    return called in _CHANGES


def asks_obstore(called: Any) -> bool:
    """Tell whether a builtin reads or writes objects."""
    return called in _OBSTORE


def killed_at(
    step: int, action: Callable[..., object], *args: object, counted: Counted = touches_files
) -> bool:
    """Whether the action was killed at that step; False when it ended before so many."""
    process = _PROCESSES.Process(target=_run, args=(step, counted, action, args))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    killed = process.exitcode != 0
    process.close()
    return killed


def _run(
    step: int, counted: Counted, action: Callable[..., object], args: tuple[object, ...]
) -> None:
    left = step

    def count(_frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and counted(called):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(count)
    action(*args)
    sys.setprofile(None)
