"""Adapters, revisions and where these come from, on the wire."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from service.adapters.aliases_schemas import Alias, Reason
from service.wire import Input, Output

MOST_KEPT = 1_000_000


class NewestRevision(Output):
    """The latest result of a job."""

    revision: Annotated[str, Meta(description="Its whole digest.")]
    model: Annotated[str, Meta(description="Its exact name, to call it.")]


class Adapter(Output):
    """A line of revisions, and the aliases that name some of them."""

    id: str
    object: str
    name: str
    created_at: int
    newest: Annotated[
        NewestRevision | None, Meta(description="Null while it has checkpoints at most.")
    ]
    aliases: list[Alias]
    keep_last: Annotated[
        int | None, Meta(description="How many of the newest results retention keeps; null: all.")
    ]


class UpdateAdapter(Input):
    """What to change of an adapter."""

    keep_last: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_KEPT)] | None,
        Meta(
            description="How many of the newest results to keep, besides those that an alias, a "
            "pin, a job, a merge or a request needs; null: all."
        ),
    ]


class RetiringRevision(Output):
    """A revision that is not among the newest results."""

    revision: Annotated[str, Meta(description="Its whole digest.")]
    models: list[str]
    goes: bool
    kept_by: Annotated[list[str], Meta(description="What needs it.")]


class Retention(Output):
    """What retention would do with an adapter now."""

    object: Literal["adapter.retention"]
    adapter: str
    keep_last: int | None
    data: list[RetiringRevision]


class AdapterList(Output):
    """A page of adapters, newest first."""

    object: str
    data: list[Adapter]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RevisionModel(Output):
    """A callable name of a revision; `step` is a checkpoint's."""

    id: str
    job_id: Annotated[str | None, Meta(description="Null if it was imported.")]
    step: int | None


class GateCheck(Output):
    """One finding of the publish gate."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    message: str
    figures: Annotated[dict[str, float | None], Meta(description="In nats, where not counted.")]


class GateReport(Output):
    """What the publish gate found when the serving engine had loaded the revision."""

    passed: bool
    reason: Annotated[str | None, Meta(description="What failed, with the figures.")]
    checks: list[GateCheck]


class GateOverride(Output):
    """That an operator lets a rejected revision be used, why, and since when."""

    reason: str
    key_id: Annotated[str | None, Meta(description="Null for the admin key.")]
    overridden_at: int


class OverrideGate(Input):
    """Why a rejected revision may be used."""

    reason: Reason


class AdapterRevision(Output):
    """One immutable version of an adapter. `job_id` is the job that published it first.

    One that is `rejected` cannot be called, nor named by an alias, unless it is overridden.
    """

    id: str
    object: str
    adapter: str
    digest: str
    rev: Annotated[str, Meta(description="The short digest: `{adapter}@{rev}` names it.")]
    models: list[RevisionModel]
    created_at: int
    job_id: str | None
    step: Annotated[int | None, Meta(description="Null if it is a job's result.")]
    format: str
    status: Literal["published", "rejected"]
    gate: Annotated[
        GateReport | None, Meta(description="Null if it was published before there was a gate.")
    ]
    override: GateOverride | None


class Held(Output):
    """How a base is held, and what it computes in."""

    quantization: str
    compute_dtype: str


class ParityMatch(Output):
    """What is the same here as in training. Null: it is not known of an import, or no engine
    answers just now.
    """

    base: bool
    tokenizer: bool
    chat_template: bool
    quantization: bool | None
    compute_dtype: bool | None


class Parity(Output):
    """How a revision was trained, and how it is served.

    Another base, tokenizer or chat template is refused with 409 when the revision is called;
    another quantization or dtype is served all the same.
    """

    trained: Held
    served: Annotated[Held | None, Meta(description="Null while no engine answers.")]
    match: ParityMatch


class ShownRevision(AdapterRevision):
    """A revision alone, compared with what runs here."""

    parity: Annotated[Parity | None, Meta(description="Null unless its files are whole.")]


class PrefetchedRevision(Output):
    """A revision that the engine is asked to load, as soon as that holds nobody up."""

    object: str
    adapter: str
    revision: Annotated[str, Meta(description="Its whole digest.")]
    model: Annotated[str, Meta(description="Its exact name, to call it.")]


class AdapterRevisionList(Output):
    """A page of revisions, newest first."""

    object: str
    data: list[AdapterRevision]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RevisionOrigin(Output):
    """What a revision's manifest says of how it was made."""

    created_at: int
    base: str
    base_commit: Annotated[str | None, Meta(description="Of the hub's repository, if known.")]
    base_digest: Annotated[str, Meta(description="sha256 over its config and weights.")]
    tokenizer_digest: str
    chat_template_digest: str
    quantization: str
    compute_dtype: str
    format: str
    job_id: str | None
    step: int | None
    dataset_digests: Annotated[list[str], Meta(description="sha256 of the training files.")]
    spec: Annotated[dict[str, Any], Meta(description="All that training was told.")]
    metrics: dict[str, float | None]
    library_versions: dict[str, str]
    parents: Annotated[list[str], Meta(description="Digests of what training went on from.")]
    imported: Annotated[
        bool, Meta(description="It came from elsewhere; how it was made is unknown.")
    ]


class Ancestor(Output):
    """A revision, or one that it descends from; `origin` is null unless its files are whole."""

    digest: str
    adapter: Annotated[str | None, Meta(description="Null if it was deleted.")]
    state: Literal["present", "deleted", "damaged"]
    origin: RevisionOrigin | None


class Lineage(Output):
    """A revision and all that it descends from, nearest first."""

    object: str
    data: list[Ancestor]
