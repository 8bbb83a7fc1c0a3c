"""The check that precedes every start of vLLM tells right engines from those that mix up."""

from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters_store import FilesystemAdapterStore, RevisionRef
from service.base.description import describe
from service.serving.check_adapters import publish_random
from service.serving.engine import GenerationRequest, Piece
from service.serving.self_check import MixedUp, self_check
from service.settings import BUNDLED_BASE
from tests.fakes.engine import FakeEngine

PROMPT = [5, 6, 7, 8]


class Bleeding(FakeEngine):
    """In company, some are answered by the adapter that was loaded last."""

    def __init__(self, store: FilesystemAdapterStore, *, base_only: bool) -> None:
        super().__init__(store, answer=_answer, max_resident=3)
        self._base_only = base_only
        self._last: RevisionRef | None = None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        if request.revision is not None and not (self._last and self._running):
            self._last = request.revision
        bleeds = request.revision is None if self._base_only else request.revision != self._last
        if self._running and bleeds:
            request = replace(request, revision=self._last)
        async for piece in super().generate(request):
            yield piece


class Forgetful(FakeEngine):
    """It looks places up only when others are asked than before, as vLLM 0.25 does."""

    def __init__(self, store: FilesystemAdapterStore) -> None:
        super().__init__(store, answer=_answer, max_resident=3)
        self._slots: list[RevisionRef | None] = [None] * 3
        self._before: tuple[RevisionRef | None, int] | None = None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        if request.revision is not None:
            if request.revision not in self._resident:
                self._load(request.revision)
            if self._before is None or self._before[0] != request.revision:
                self._before = (request.revision, self._slots.index(request.revision))
            request = replace(request, revision=self._slots[self._before[1]])
        async for piece in super().generate(request):
            yield piece

    def _load(self, ref: RevisionRef) -> None:
        super()._load(ref)
        there = [one if one in self._resident else None for one in self._slots]
        there[there.index(None)] = ref
        self._slots = there


class Rounding(FakeEngine):
    """In company, log-probabilities are others: the base's by so much, an adapter's by so much."""

    def __init__(self, store: FilesystemAdapterStore, base: float, adapters: float) -> None:
        super().__init__(store, answer=_answer, max_resident=3)
        self._base, self._adapters = base, adapters

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        shift = self._base if request.revision is None else self._adapters
        async for piece in super().generate(request):
            # A piece comes once the engine has counted whom it answers.
            yield _shifted(piece, shift) if self._running > 1 else piece


def _shifted(piece: Piece, shift: float) -> Piece:
    told = [replace(one, logprob=one.logprob - shift) for one in piece.logprobs or []]
    return replace(piece, logprobs=told)


def _answer(request: GenerationRequest, _: int) -> str:
    who = request.revision.digest[:12] if request.revision else "base"
    return " ".join([who, *(f"{who}-{number}" for number in range(200))])


@pytest.fixture
def store(tmp_path: Path) -> FilesystemAdapterStore:
    return FilesystemAdapterStore(tmp_path)


@pytest.fixture
def refs(store: FilesystemAdapterStore) -> list[RevisionRef]:
    return publish_random(store, describe(str(BUNDLED_BASE)), 4)


async def test_an_engine_that_gives_each_its_own_passes(store, refs) -> None:
    engine = FakeEngine(store, answer=_answer, max_resident=3)
    await self_check(engine, refs, PROMPT)
    assert (await engine.status()).adapter_loads > len(refs), "places were filled twice"


async def test_a_base_that_an_adapter_answers_for_is_seen(store, refs) -> None:
    with pytest.raises(MixedUp, match="the base was answered by self-check/secret-"):
        await self_check(Bleeding(store, base_only=True), refs, PROMPT)


async def test_an_adapter_that_another_answers_for_is_seen(store, refs) -> None:
    with pytest.raises(MixedUp, match="was answered by"):
        await self_check(Bleeding(store, base_only=False), refs, PROMPT)


async def test_an_adapter_that_is_sought_where_it_was_before_is_seen(store, refs) -> None:
    with pytest.raises(MixedUp, match=r"secret-0 was answered by self-check/secret-"):
        await self_check(Forgetful(store), refs, PROMPT)


@pytest.mark.parametrize(
    ("base", "adapters", "refused"),
    [(0.0, 0.25, None), (0.0, 0.5, "by 0.5 nats, of which 0.3"), (0.2, 0.5, None), (0.6, 1.5, "1")],
)
async def test_what_company_does_to_the_base_before_there_are_adapters_is_rounding(
    store, refs, base: float, adapters: float, refused: str | None
) -> None:
    passes = nullcontext() if refused is None else pytest.raises(MixedUp, match=refused)
    with passes:
        await self_check(Rounding(store, base, adapters), refs, PROMPT)


async def test_an_engine_that_applies_no_adapter_is_seen(store, refs) -> None:
    engine = FakeEngine(store, answer=lambda _, __: "all the same to everybody" * 9)
    with pytest.raises(MixedUp, match="give the same answer"):
        await self_check(engine, refs, PROMPT)
