"""Merges on the wire."""

from typing import Annotated, Literal

from msgspec import Meta

from service.wire import Input, Output

BaseWeights = Literal["plain", "nf4"]


class CreateMerge(Input):
    """How to merge a revision."""

    base_weights: Annotated[
        BaseWeights,
        Meta(
            description="`plain`: into the base's own weights. `nf4`: into what NF4 leaves of "
            "them, which is what the adapter was trained on where the base is held so."
        ),
    ] = "plain"


class MergedFile(Output):
    """A file of the merged model."""

    name: str
    bytes: int
    sha256: str


class MergeAgreement(Output):
    """The largest differences of a token's log-probability, in nats, on fixed probe prompts."""

    difference: Annotated[
        float, Meta(description="Between the merged model and the same base with the adapter.")
    ]
    tolerance: Annotated[float, Meta(description="Three times `noise`, and 0.01 at least.")]
    noise: Annotated[
        float, Meta(description="Between base with adapter computed in 16 bit and in fp32.")
    ]
    effect: Annotated[float, Meta(description="Between the base with the adapter and without.")]
    tokens: int


class MergeResult(Output):
    """A merged model: a Hugging Face folder."""

    bytes: int
    files: list[MergedFile]
    agreement: MergeAgreement


class MergeFault(Output):
    """Why a merge failed."""

    code: str
    message: str


class Merge(Output):
    """A job that merges a revision into the base, at 16 bit. `result` is null until it has
    succeeded.
    """

    id: str
    object: str
    adapter: str
    revision: Annotated[str, Meta(description="Its whole digest.")]
    model: Annotated[str, Meta(description="The revision's exact name when it was asked for.")]
    base_weights: BaseWeights
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: MergeFault | None
    result: MergeResult | None


class MergeList(Output):
    """A page of merges, newest first."""

    object: str
    data: list[Merge]
    first_id: str | None
    last_id: str | None
    has_more: bool
