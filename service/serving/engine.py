"""The seam of serving: `Engine` answers token ids with token ids, for any adapter, in one batch.

An engine knows nothing of tenants' rights, HTTP or chat templates: a request names an immutable
revision, or none for the base.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Literal, Protocol

import msgspec

from adapters_store import RevisionRef
from service.serving.load_times import LoadTimes


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to pick tokens, in vLLM's terms. Temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    """Leaves out tokens less likely than this share of the likeliest one's probability."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and generated tokens; the two others over generated ones only."""
    logit_bias: dict[int, float] = {}
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    """So many tokens come before one that ends the answer is picked; stop strings end it anyway."""
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: no log-probabilities; k: of the chosen token and of the k likeliest."""
    shown: tuple[int, ...] = ()
    """Special tokens that the text shows; it has none of the others."""
    structure: str | None = None
    """A grammar that the text keeps to, in the Lark that llguidance and vLLM's `guidance` backend
    read (`%json` for schemas). It may end only where the grammar does: by a token that ends it, or
    cut by `max_tokens`."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt. A given seed gives the same tokens whoever else is in the batch."""

    id: str
    revision: RevisionRef | None
    prompt: list[int]
    sampling: Sampling
    tenant: str = ""
    """Who asks: nothing that is kept of a prompt is shared with another tenant, and each has its
    turn."""
    weight: float = 1.0
    """The tenant's share of what is generated, against the others'; over 0."""
    places: int | None = None
    """How many of the tenant's revisions may be resident at once; None: as many as there is room
    for."""
    engine_id: int | None = None
    """The revision's number, never another's, for engines that know adapters by numbers."""
    traceparent: str | None = None
    """The W3C trace context of who asks; None where nothing is traced."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """One token's log-probability (natural), and the likeliest alternatives at its place."""

    token_id: int
    token: str
    bytes: list[int]
    logprob: float
    top: "list[TokenLogprob]"


class Piece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New text of one choice, whole characters only, never part of a stop string.

    The last piece of a choice carries `finish_reason`: `stop` or `length`. `tokens` counts the
    choice's generated tokens so far, the end-of-turn token included.
    """

    index: int
    text: str
    tokens: int
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None
    queued: float | None = None
    """Seconds until the request had a place in the batch; on its first piece only."""


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A revision that has a place in the engine."""

    ref: RevisionRef
    state: Literal["loading", "resident"]
    pinned: bool
    leases: int
    """Sequences that run on it: none of them ever sees it change or go."""
    hits: int
    """Requests that found it there."""
    load_seconds: float | None
    """None while it is being loaded."""
    used_at: float | None
    """Unix time at which a sequence last began on it."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is doing now."""

    ready: bool
    running: int
    waiting: int
    residents: list[Resident]
    """The least recently used first."""
    generated_tokens: int
    adapter_loads: int
    adapter_evictions: int
    adapter_hits: int
    """Requests that found their adapter resident when it was their turn."""
    adapter_misses: int
    adapter_load_failures: int
    adapter_load_times: LoadTimes
    quantization: str | None = None
    """How the base is held: `nf4` or `none`."""
    compute_dtype: str | None = None
    kv_blocks_used: int = 0
    kv_blocks: int = 0
    """Of the paged key-value cache; 0 where there is none."""
    preemptions: int = 0
    """Sequences that had to wait again because others needed their blocks."""
    prefix_hits: int = 0
    """Prompt tokens whose keys and values were in the cache already."""

    @property
    def resident(self) -> list[RevisionRef]:
        """What is loaded, the least recently used first."""
        return [place.ref for place in self.residents if place.state == "resident"]


class Engine(Protocol):
    """Generates on one resident base, with any mixture of adapters in one batch.

    Adapters are loaded at first use and evicted least recently used; one in use, or pinned, is
    never evicted, and one that was is loaded again at its next use.
    """

    def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield pieces until every choice has finished.

        Closing the iterator early cancels the request and frees its place. Raises (at the first
        step) EngineUnavailable when the engine is not there or dies, EngineBusy when too many wait,
        and ServiceError subclasses when the revision cannot be loaded: never answers with the base
        instead.
        """
        ...

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Give the log-probabilities (natural) of each prompt's tokens from the second on.

        Each given all before it, of the model's whole distribution. Raises as `generate` does, and
        BadRequest for a prompt of fewer than two tokens or beyond the context.
        """
        ...

    async def prefetch(self, revision: RevisionRef) -> None:
        """Have a revision loaded without a request; return before it is.

        It takes a free place, or that of an unused and unpinned one, once nobody who runs or waits
        is held up by that. A load that fails is logged and counted. Raises EngineUnavailable.
        """
        ...

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """Make these the pinned revisions, and no others; load those that are absent likewise.

        Raises EngineUnavailable, and Conflict unless a place is left for others.
        """
        ...

    async def status(self) -> EngineStatus:
        """Report; raises EngineUnavailable when there is no engine."""
        ...

    async def close(self) -> None:
        """Let go of everything; requests under way raise EngineUnavailable."""
        ...
