"""`FakeEngine`: an honest small engine without torch. Same request, same text; places are real."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import msgspec
from msgspec.structs import replace

from adapters_store import AdapterStore, InvalidAdapter, RevisionNotFound, RevisionRef
from service.errors import Conflict, EngineBusy, EngineUnavailable, NotFound, ServiceError
from service.serving.engine import EngineStatus, GenerationRequest, Piece, Resident
from service.serving.load_times import LoadTimes
from service.serving.requests import check_prompts, check_request
from service.serving.stopping import StopMatcher
from tests.fakes.structures import structured
from tests.fakes.words import (
    END,
    VOCABULARY,
    choose,
    default_answer,
    ends,
    logprobs_of,
    scores_of,
    script,
    token_id,
)


class _Place(msgspec.Struct):
    leases: int = 0
    hits: int = 0
    used_at: float | None = None


class FakeEngine:
    """Implements `Engine`; `words` is its model. With a store, unknown revisions are not found.

    `answer(request, index)` decides the likeliest words; by default it starts with the adapter's
    name (or `base`), goes on with words that depend on revision and prompt (and, above temperature
    0, on seed and index), and ends by itself after eight tokens and an end-of-turn token. Bias and
    penalties change which of the ranked words at a place is said. With a structure it says as much
    of its answer as that allows, and then what ends it soonest.
    """

    def __init__(
        self,
        store: AdapterStore | None = None,
        *,
        answer: Callable[[GenerationRequest, int], str] | None = None,
        max_resident: int = 16,
        max_batch: int = 32,
        max_queue: int = 1024,
        context_length: int = 2048,
    ) -> None:
        self.available = True
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self._store = store
        self._answer = answer or default_answer
        self._max_resident, self._max_queue = max_resident, max_queue
        self._max_batch, self._context = max_batch, context_length
        self._unseeded = itertools.count(1 << 40)  # apart from seeds that are given
        self._running = self._waiting = self._tokens = 0
        self._waiting_of: Counter[str] = Counter()
        self._hits = self._misses = self._loads = self._evictions = self._failures = 0
        self._resident: dict[RevisionRef, _Place] = {}
        self._pins: frozenset[RevisionRef] = frozenset()
        self._wanted: dict[RevisionRef, None] = {}
        self._changed = asyncio.Condition()
        self._going = asyncio.Event()
        self._going.set()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield one piece a word, the choices in turn."""
        self.requests.append(request)
        self._require()
        check_request(request, self._context, VOCABULARY)
        if self._waiting_of[request.tenant] >= self._max_queue - self._waiting:
            raise EngineBusy("too many requests are waiting; try again later")
        queued = await self._enter(request)
        try:
            async for piece in self._pieces(request):
                yield replace(piece, queued=queued)
                queued = None
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled.append(request.id)
            raise
        finally:
            self._leave(request)

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Score by the weights of the revision."""
        self._require()
        check_prompts(prompts, self._context, VOCABULARY)
        weights = b"" if revision is None else self._open(revision)
        return [scores_of(weights, prompt) for prompt in prompts]

    async def prefetch(self, revision: RevisionRef) -> None:
        """Load it as soon as there is a place."""
        self._require()
        self._wanted[revision] = None
        self._prefetch()

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """Never evict these."""
        self._require()
        if len(revisions) >= self._max_resident:
            raise Conflict("one place is for what is not pinned", code="too_many_pins")
        self._wanted = {ref: None for ref in self._wanted if ref not in self._pins}
        self._pins = frozenset(revisions)
        self._wanted |= dict.fromkeys(sorted(self._pins - self._resident.keys()))
        self._prefetch()
        self._wake()

    async def status(self) -> EngineStatus:
        """Count truthfully."""
        self._require()
        return EngineStatus(
            ready=True,
            running=self._running,
            waiting=self._waiting,
            residents=[
                Resident(
                    ref=ref,
                    state="resident",
                    pinned=ref in self._pins,
                    leases=place.leases,
                    hits=place.hits,
                    load_seconds=0.0,
                    used_at=place.used_at,
                )
                for ref, place in self._resident.items()
            ],
            generated_tokens=self._tokens,
            adapter_loads=self._loads,
            adapter_evictions=self._evictions,
            adapter_hits=self._hits,
            adapter_misses=self._misses,
            adapter_load_failures=self._failures,
            adapter_load_times=LoadTimes(counts=(self._loads, *LoadTimes().counts[1:])),
            quantization="none",
            compute_dtype="float32",
        )

    async def close(self) -> None:
        """Become unavailable for good."""
        self.available = False
        self._going.set()
        self._wake()

    def pause(self) -> None:
        """Make no further tokens until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Go on."""
        self._going.set()

    async def wait_until(self, running: int, waiting: int = 0) -> None:
        """Return once that many requests run and wait."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (self._running, self._waiting) == (running, waiting)
            )

    def _require(self) -> None:
        if not self.available:
            raise EngineUnavailable("the generation engine is not running yet")

    async def _enter(self, request: GenerationRequest) -> float | None:
        came = time.monotonic()
        self._waiting += 1
        self._waiting_of[request.tenant] += 1
        self._wake()
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self.available or self._fits(request))
            self._require()
            self._lease(request.revision)
            self._running += 1
            return time.monotonic() - came
        finally:
            self._waiting -= 1
            self._waiting_of[request.tenant] -= 1
            self._wake()

    def _fits(self, request: GenerationRequest) -> bool:
        known = request.revision is None or request.revision in self._resident
        return self._running < self._max_batch and (known or self._room())

    def _room(self) -> bool:
        return len(self._resident) < self._max_resident or self._unused() is not None

    def _unused(self) -> RevisionRef | None:
        places = self._resident.items()
        free = (ref for ref, place in places if not place.leases and ref not in self._pins)
        return next(free, None)

    def _lease(self, ref: RevisionRef | None) -> None:
        if ref is None:
            return
        if ref in self._resident:
            self._hits += 1
            self._resident[ref].hits += 1
        else:
            self._misses += 1
            self._load(ref)
        place = self._resident[ref] = self._resident.pop(ref)
        place.leases += 1
        place.used_at = time.time()

    def _load(self, ref: RevisionRef) -> None:
        self._wanted.pop(ref, None)
        try:
            self._open(ref)
        except ServiceError:
            self._failures += 1
            raise
        if len(self._resident) >= self._max_resident:
            unused = self._unused()
            assert unused is not None
            del self._resident[unused]
            self._evictions += 1
        self._resident[ref] = _Place()
        self._loads += 1

    def _prefetch(self) -> None:
        while self._wanted and not self._waiting and self._room():
            ref = next(iter(self._wanted))
            if ref in self._resident:
                del self._wanted[ref]
                self._resident[ref] = self._resident.pop(ref)
                continue
            with contextlib.suppress(ServiceError):
                self._load(ref)

    def _open(self, ref: RevisionRef) -> bytes:
        if self._store is None:
            return ref.digest.encode()
        try:
            return (self._store.open(ref).path / "adapter_model.safetensors").read_bytes()
        except RevisionNotFound:
            raise NotFound("the revision does not exist", code="model_not_found") from None
        except InvalidAdapter as fault:
            raise Conflict(f"the revision cannot be loaded: {fault}") from None

    def _leave(self, request: GenerationRequest) -> None:
        self._running -= 1
        if request.revision is not None:
            self._resident[request.revision].leases -= 1
        self._prefetch()
        self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._waker = asyncio.ensure_future(notify())

    async def _pieces(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        seeded = request
        if request.sampling.seed is None:
            sampling = replace(request.sampling, seed=next(self._unseeded))
            seeded = replace(request, sampling=sampling)
        for index in range(request.sampling.n):
            async for piece in self._choice(seeded, index):
                yield piece

    async def _choice(self, request: GenerationRequest, index: int) -> AsyncIterator[Piece]:
        sampling = request.sampling
        matcher, said = StopMatcher(sampling.stop), list[int]()
        said_freely = self._answer(request, index)
        for likeliest in script(structured(sampling.structure, said_freely)):
            await self._tick()
            word = choose(likeliest, request, said)
            said.append(token_id(word))
            over = said[-1] in ends(sampling)
            text = matcher.add("" if over or word == END else word)
            stopped = over or matcher.stopped
            ended = stopped or len(said) == sampling.max_tokens
            yield Piece(
                index=index,
                text=text + matcher.flush() if ended else text,
                tokens=len(said),
                logprobs=None if stopped else logprobs_of(likeliest, word, sampling.logprobs),
                finish_reason=("stop" if stopped else "length") if ended else None,
            )
            if ended:
                return

    async def _tick(self) -> None:
        await asyncio.sleep(0)
        await self._going.wait()
        self._require()
        self._tokens += 1
