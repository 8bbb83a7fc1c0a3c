"""The engine's thread with a backend of numbers: what it does when things go wrong."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager

import pytest
from tokenizers import Tokenizer

from adapters_store import RevisionRef
from service.base.rows import KvUse, Pick, Round, Row
from service.errors import BadRequest, Conflict, EngineUnavailable
from service.rendering.detokenizer import Detokenizer
from service.serving.calls import Call
from service.serving.choices import Choice
from service.serving.engine import GenerationRequest, Piece, Sampling
from service.serving.generation_loop import GenerationLoop
from service.settings import BUNDLED_BASE
from tests.fakes.own_thread import OwnThread

TOKENIZER = Tokenizer.from_file(str(BUNDLED_BASE / "tokenizer.json"))
REF = RevisionRef("acme", "support", "a" * 64)
OTHER = RevisionRef("globex", "support", "b" * 64)
ROUND_BREAKS, STEP_BREAKS, TOKEN_BREAKS, TOKEN_IS_REFUSED = 901, 902, 903, 904


class Numbers:
    """A backend whose rows say their prompt's first number for ever."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.installed: list[RevisionRef] = []
        self.threads: set[int] = set()
        self.prepared = 0
        self.faults: dict[RevisionRef, Exception] = {}
        self.may_prepare = threading.Event()
        self.may_prepare.set()

    def prepare(self, ref: RevisionRef) -> RevisionRef:
        self.may_prepare.wait()
        self.prepared += 1
        return ref

    def install(self, ref: RevisionRef, prepared: RevisionRef) -> None:
        self._here()
        if ref in self.faults:
            raise self.faults[ref]
        self.installed.append(prepared)

    def remove(self, ref: RevisionRef) -> None:
        self._here()
        self.installed.remove(ref)

    def name(self, ref: RevisionRef) -> str:
        return ref.digest

    @property
    def busy(self) -> bool:
        return bool(self.rows)

    @property
    def use(self) -> KvUse:
        return KvUse(len(self.rows), 100, 2, 3)

    def add(self, rows: Iterable[Row]) -> None:
        self._here()
        self.rows |= {row.key: row for row in rows}

    def drop(self, keys: Collection[int]) -> None:
        self._here()
        for key in keys:
            self.rows.pop(key, None)

    def round(self) -> Round:
        self._here()
        said = {key: row.prompt[0] for key, row in self.rows.items()}
        if ROUND_BREAKS in said.values():
            raise RuntimeError("a fault of ours")
        lost = [key for key, number in said.items() if number == STEP_BREAKS]
        self.drop(lost)
        picks = [Pick(key, said[key], None, []) for key in self.rows]
        return Round(picks, lost, [RuntimeError("out of memory")] if lost else [])

    def _here(self) -> None:
        self.threads.add(threading.get_ident())


class Fragile(Choice):
    """A choice that cannot take one of the tokens."""

    def take(self, token: int, *rest) -> Piece | None:
        if token == TOKEN_BREAKS:
            raise RuntimeError("no such token")
        if token == TOKEN_IS_REFUSED:
            raise BadRequest("it cannot go on", param="structure")
        return super().take(token, *rest)


def loop_on(backend: Numbers) -> GenerationLoop:
    limits = {"max_resident": 1, "max_batch": 4, "max_queue": 4}
    return GenerationLoop(
        backend, lambda i, s, _: Fragile(i, s, (), Detokenizer(TOKENIZER)), **limits
    )


@asynccontextmanager
async def running(backend: Numbers) -> AsyncIterator[GenerationLoop]:
    loop = loop_on(backend)
    OwnThread(loop)
    try:
        yield loop
    finally:
        await asyncio.to_thread(loop.close)


async def ask(
    loop: GenerationLoop,
    number: int = 500,
    ref: RevisionRef | None = None,
    tokens: int = 3,
    choices: int = 1,
) -> int:
    sampling = Sampling(max_tokens=tokens, n=choices)
    call = Call(GenerationRequest(id="g", revision=ref, prompt=[number], sampling=sampling))
    loop.submit(call)
    try:
        async with aclosing(call.answers()) as pieces:  # type: ignore[type-var]
            return [piece.tokens async for piece in pieces][-1]
    finally:
        loop.cancel(call)


async def test_everything_but_reading_files_happens_on_one_thread() -> None:
    backend = Numbers()
    async with running(backend) as loop:
        await asyncio.gather(ask(loop), ask(loop, ref=REF), ask(loop, ref=OTHER))
    assert len(backend.threads) == 1
    assert threading.get_ident() not in backend.threads


async def test_rows_that_a_step_lost_fail_and_the_others_go_on() -> None:
    async with running(Numbers()) as loop:
        good = asyncio.create_task(ask(loop, tokens=50))
        with pytest.raises(EngineUnavailable):
            await ask(loop, STEP_BREAKS)
        assert await good == 50


async def test_a_choice_that_cannot_go_on_fails_its_own_request() -> None:
    async with running(Numbers()) as loop:
        other = asyncio.ensure_future(ask(loop, tokens=50))
        with pytest.raises(BadRequest, match="cannot go on"):
            await ask(loop, TOKEN_IS_REFUSED, choices=2)
        assert await other == 50
        assert (loop.status().running, loop.status().waiting) == (0, 0)


@pytest.mark.parametrize("number", [ROUND_BREAKS, TOKEN_BREAKS])
async def test_a_fault_of_ours_fails_who_is_there_and_the_engine_goes_on(number: int) -> None:
    async with running(Numbers()) as loop:
        with pytest.raises(EngineUnavailable):
            await ask(loop, number)
        assert await ask(loop) == 3
        assert (loop.status().running, loop.status().waiting) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(Conflict("damaged"), Conflict), (RuntimeError("disk"), EngineUnavailable)],
)
async def test_an_adapter_that_cannot_be_loaded_fails_all_who_wait_for_it_only(
    fault: Exception, expected: type[Exception]
) -> None:
    backend = Numbers()
    backend.faults[REF] = fault
    backend.may_prepare.clear()
    async with running(backend) as loop:
        waiting = [asyncio.create_task(ask(loop, ref=REF)) for _ in range(3)]
        assert await ask(loop) == 3
        backend.may_prepare.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {expected}
        assert len({id(outcome) for outcome in outcomes}) == 3, "each raises its own"
        backend.faults.clear()
        assert await ask(loop, ref=REF) == 3
    assert backend.installed == [REF]


async def test_one_load_serves_all_who_wait_for_it() -> None:
    backend = Numbers()
    backend.may_prepare.clear()
    async with running(backend) as loop:
        waiting = [asyncio.create_task(ask(loop, ref=REF)) for _ in range(4)]
        assert await ask(loop) == 3
        backend.may_prepare.set()
        assert await asyncio.gather(*waiting) == [3] * 4
    assert backend.prepared == 1


async def test_a_load_under_way_is_told_and_a_request_joins_a_prefetch() -> None:
    backend = Numbers()
    backend.may_prepare.clear()
    async with running(backend) as loop:
        loop.prefetch(REF)
        waiting = asyncio.create_task(ask(loop, ref=REF))
        assert await ask(loop) == 3
        [place] = loop.status().residents
        assert (place.ref, place.state, place.load_seconds) == (REF, "loading", None)
        assert loop.status().resident == []
        backend.may_prepare.set()
        assert await waiting == 3
        assert (loop.status().adapter_misses, loop.status().adapter_hits) == (1, 0)
    assert backend.prepared == 1


async def test_pins_that_nobody_waits_for_any_more_change_nothing() -> None:
    loop = loop_on(Numbers())
    gone = loop.pin([REF])
    assert gone.cancel()
    loop.turn()
    assert loop.status().residents == []
    loop.end()
    await asyncio.to_thread(loop.close)


async def test_the_one_who_waited_for_a_load_may_go_before_it_is_done() -> None:
    backend = Numbers()
    backend.may_prepare.clear()
    async with running(backend) as loop:
        gone = asyncio.create_task(ask(loop, ref=REF))
        assert await ask(loop) == 3
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        backend.may_prepare.set()
        assert await ask(loop, ref=OTHER) == 3
    assert backend.installed == [OTHER]


async def test_closing_while_an_adapter_loads_fails_who_waits_for_it() -> None:
    backend = Numbers()
    backend.may_prepare.clear()
    async with running(backend) as loop:
        waiting = asyncio.create_task(ask(loop, ref=REF))
        assert await ask(loop) == 3
        closing = asyncio.create_task(asyncio.to_thread(loop.close))
        with pytest.raises(EngineUnavailable):
            await waiting
        backend.may_prepare.set()
        await closing
        with pytest.raises(EngineUnavailable):
            await ask(loop)


async def test_it_can_be_driven_by_whoever_owns_the_model() -> None:
    loop = loop_on(Numbers())
    called = asyncio.Event()
    loop.door.wake = called.set
    assert not loop.wanted
    assert not loop.turn()
    asked = asyncio.create_task(ask(loop, tokens=4))
    await called.wait()
    assert loop.wanted
    turns = 0
    while not asked.done():
        turns += loop.turn()
        await asyncio.sleep(0)
    assert await asked == 4
    assert turns >= 4, "a turn runs at most one round"
    while loop.turn():
        pass
    assert not loop.wanted
    loop.end()
    await asyncio.to_thread(loop.close)


async def test_a_driver_that_goes_fails_what_is_under_way() -> None:
    loop = loop_on(Numbers())
    waiting = [asyncio.create_task(ask(loop, tokens=50)) for _ in range(2)]
    await asyncio.sleep(0)
    loop.turn()
    late = asyncio.create_task(ask(loop))
    await asyncio.sleep(0)
    loop.end()
    for outcome in await asyncio.gather(*waiting, late, return_exceptions=True):
        assert isinstance(outcome, EngineUnavailable)
    assert not loop.turn()
    with pytest.raises(EngineUnavailable):
        await ask(loop)
    await asyncio.to_thread(loop.close)


async def test_the_status_tells_of_the_cache() -> None:
    async with running(Numbers()) as loop:
        assert await ask(loop) == 3
        status = loop.status()
    assert (status.kv_blocks_used, status.kv_blocks) == (0, 100)
    assert (status.preemptions, status.prefix_hits) == (2, 3)
