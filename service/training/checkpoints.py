"""Resumable states of one task on disk: each is whole, or is not there."""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

RECORD = "complete.json"
KEPT = 2
_PREFIX = "step-"
_UNFINISHED = "unfinished"


class CheckpointIncomplete(Exception):
    """What was to be kept lacks a file that resuming needs."""


class _Record(msgspec.Struct, frozen=True):
    fingerprint: str
    step: int
    files: dict[str, str]


class Checkpoints:
    """`step-N` folders in `root`, each with a record of its files' sha256 that was written last.

    `fingerprint` tells the task: a checkpoint of another one is not there. `required` are the
    files without which a resume would silently differ.
    """

    def __init__(self, root: Path, fingerprint: str, required: Collection[str]) -> None:
        self._root = root
        self._fingerprint = fingerprint
        self._required = frozenset(required)

    def newest(self) -> Path | None:
        """Find the newest whole checkpoint."""
        found = sorted(self._root.glob(f"{_PREFIX}*"), key=_step, reverse=True)
        return next((folder for folder in found if self._is_whole(folder)), None)

    def newest_step(self) -> int:
        """Tell the step of the newest whole checkpoint, 0 if there is none."""
        folder = self.newest()
        return 0 if folder is None else _step(folder)

    def write(self, step: int, fill: Callable[[Path], None]) -> None:
        """Let `fill` write into a folder beside, then put it in place, durably.

        Older ones beyond the last KEPT disappear. Raises CheckpointIncomplete.
        """
        beside = self._root / _UNFINISHED
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        fill(beside)
        self._seal(beside, step)
        place = self._root / f"{_PREFIX}{step}"
        # One that is there is damaged, or another task's: it would have been resumed from.
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        _sync(self._root)
        self._prune(step)

    def _seal(self, folder: Path, step: int) -> None:
        files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        if missing := self._required - files.keys():
            raise CheckpointIncomplete(f"no {', '.join(sorted(missing))}")
        for name in files:
            _sync(folder / name)
        record = folder / RECORD
        record.write_bytes(msgspec.json.encode(_Record(self._fingerprint, step, files)))
        _sync(record)
        _sync(folder)

    def _is_whole(self, folder: Path) -> bool:
        try:
            record = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Record)
            if record.fingerprint != self._fingerprint or self._required - record.files.keys():
                return False
            return all(_sha256(folder / name) == sha for name, sha in record.files.items())
        except (OSError, msgspec.DecodeError):
            return False

    def _prune(self, step: int) -> None:
        folders = sorted(self._root.glob(f"{_PREFIX}*"), key=_step)
        ahead = [folder for folder in folders if _step(folder) > step]
        upto = [folder for folder in folders if _step(folder) <= step]
        # Those ahead were not whole when this run resumed from before them.
        for folder in [*ahead, *upto[:-KEPT]]:
            shutil.rmtree(folder, ignore_errors=True)


def _step(folder: Path) -> int:
    number = folder.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
