"""Which revisions of an adapter retention lets go. Pure.

A revision's rank is the number of results that are newer than it; the first `keep_last` ranks stay.
A checkpoint has its result's rank, so that both go together, and one without a result its own. A
revision of several names has the best of theirs. Beyond that a revision stays for as long as
something needs it, and then it stays alone: a result that an alias names keeps no checkpoint.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import msgspec


class Name(msgspec.Struct, frozen=True):
    """A callable name; `seq` counts up, `step` is a checkpoint's."""

    seq: int
    model: str
    job_id: str | None
    step: int | None
    created_at: int


class Version(msgspec.Struct, frozen=True):
    """A revision with its names; `servable` unless the publish gate rejected it."""

    digest: str
    created_at: int
    servable: bool
    names: Sequence[Name]


class Verdict(msgspec.Struct, frozen=True):
    """That a revision is beyond the newest, and what it stays for; for nothing: it goes."""

    version: Version
    kept_by: Sequence[str]


def beyond(
    versions: Sequence[Version], keep_last: int | None, needed: Mapping[str, Sequence[str]]
) -> list[Verdict]:
    """Judge the revisions that are not among the newest, in their given order.

    `needed` says what needs a digest. Without `keep_last` all are among the newest.
    """
    if keep_last is None:
        return []
    results = [name for v in versions if v.servable for name in v.names if name.step is None]
    seqs = sorted(name.seq for name in results)
    of_job = {name.job_id: name.seq for name in sorted(results, key=lambda name: name.seq)}
    dates = sorted(name.created_at for name in results)

    def newer(name: Name) -> int:
        of_result = of_job.get(name.job_id) if name.job_id and name.step is not None else None
        anchor = name.seq if of_result is None else of_result
        return len(seqs) - bisect_right(seqs, anchor)

    def rank(version: Version) -> int:
        # Of one second: as old as the others, for it has no place among them.
        nameless = len(dates) - bisect_right(dates, version.created_at)
        return min(map(newer, version.names), default=nameless)

    return [
        Verdict(version, needed.get(version.digest, ()))
        for version in versions
        if rank(version) >= keep_last
    ]
