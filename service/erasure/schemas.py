"""Erasures on the wire: ids and numbers only."""

from typing import Annotated, Literal

from msgspec import Meta

from service.wire import Output


class ErasureReport(Output):
    """What there was of the tenant when the erasing began."""

    rows: Annotated[dict[str, int], Meta(description="By kind: files, jobs, revisions, ...")]
    file_bytes: int
    adapter_bytes: int


class Erasure(Output):
    """That a tenant was erased, or is being."""

    id: str
    object: Literal["tenant.erasure"]
    tenant: str
    status: Annotated[
        Literal["running", "done"], Meta(description="`done` once nothing of the tenant is left.")
    ]
    report: Annotated[
        ErasureReport | None, Meta(description="Null until its requests and jobs have ended.")
    ]
    created_at: int
    finished_at: int | None


class ErasureList(Output):
    """A page of erasures, newest first; the next page's `after` is `last_id`."""

    object: Literal["list"]
    data: list[Erasure]
    first_id: str | None
    last_id: str | None
    has_more: bool
