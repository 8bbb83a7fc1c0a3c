"""Garbage collection, for processes that live long and make much at a time."""

import gc

YOUNG = 20_000
"""Objects more than there were before, at which the youngest are looked through.

Python's own 700 are exceeded by every step of an engine with hundreds of requests, whose messages
are gone by themselves a moment later.
"""


def settle() -> None:
    """Leave what there is out of collections from now on, and have few of them.

    Imports and the app are two hundred thousand objects, which stay until the process ends. A
    third of what a busy API computed was collections that found nothing, tens of milliseconds at a
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
