"""The check that precedes every start of vLLM tells right engines from those that mix up."""

from collections.abc import AsyncIterator
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


async def test_an_engine_that_applies_no_adapter_is_seen(store, refs) -> None:
    engine = FakeEngine(store, answer=lambda _, __: "all the same to everybody" * 9)
    with pytest.raises(MixedUp, match="give the same answer"):
        await self_check(engine, refs, PROMPT)
