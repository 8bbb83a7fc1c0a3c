"""Run an action in a process that is killed at its n-th step: a call of the system, or of obstore,
or what the action itself calls one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import obstore

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "tests.unit.adapters_store.killing",
        "numpy",
        "adapters_store",
        "service.erasure.service",
        "tests.e2e.deeds",
        "tests.integration.bringing",
    ]
)

# What touches files: the functions of `os` and `fcntl`, and the methods of open files.
_MODULES = {"posix", "fcntl"}
_OBSTORE = {obstore.put, obstore.get, obstore.get_range, obstore.head, obstore.delete, obstore.list}
_METHODS = {"write", "flush", "close", "open"}
_CHANGING = {"open", "write", "rename", "replace", "mkdir", "rmdir", "unlink", "fsync", "fchmod"}
_CHANGING |= {"utime", "flock"}

Counted = Callable[[Any], bool]


def touches_files(called: Any) -> bool:
    """Tell whether a builtin is one of those above."""
    return called.__module__ in _MODULES or called.__name__ in _METHODS


def changes_files(called: Any) -> bool:
    """Tell whether a builtin changes files: to die before one that does not is to die after."""
    return touches_files(called) and called.__name__ in _CHANGING


def looks_at_files(called: Any) -> bool:
    """Tell whether a builtin opens a file or looks whether it is there."""
    return touches_files(called) and called.__name__ in {"open", "stat"}


def asks_obstore(called: Any) -> bool:
    """Tell whether a builtin reads or writes objects."""
    return called in _OBSTORE


def killed_at(
    steps: int, action: Callable[..., object], *args: object, counted: Counted = touches_files
) -> bool:
    """Whether the action was killed after so many steps; False when it ended before."""
    process = _PROCESSES.Process(target=_run, args=(steps, counted, action, args))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    killed = process.exitcode != 0
    process.close()
    return killed


@contextmanager
def meanwhile(
    steps: int, action: Callable[[], object], counted: Counted = touches_files
) -> Iterator[list[object]]:
    """Do something else in the middle of what is done inside, after so many steps of it.

    Gives a list that is empty as long as that has not happened.
    """
    left, happened = steps, list[object]()

    def count(_frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and counted(called):
            if left == 0:
                happened.append(action())
            left -= 1

    sys.setprofile(count)
    try:
        yield happened
    finally:
        sys.setprofile(None)


def step() -> None:
    """Die here, if it is time."""
    _doom.count()


class _Doom:
    """Counts the steps of a process's threads."""

    def __init__(self) -> None:
        self.left = -1

    def count(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


_doom = _Doom()


def _run(
    steps: int, counted: Counted, action: Callable[..., object], args: tuple[object, ...]
) -> None:
    def count(_frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and counted(called):
            step()

    _doom.left = steps
    threading.setprofile(count)
    sys.setprofile(count)
    action(*args)
    sys.setprofile(None)
