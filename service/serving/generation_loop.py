"""The engine's work: lets requests in, runs rounds, hands out pieces. No torch.

Everything that touches the model happens in `turn`, on the one thread that owns the model; other
threads only leave messages at the `Door`.
"""

import copy
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from adapters_store import RevisionRef
from service.base.rows import Pick, Row, Score
from service.errors import Conflict, EngineUnavailable, ServiceError
from service.serving.admission import Admission, Asked
from service.serving.backend import Backend
from service.serving.calls import Call, Courier, Scored, ScoreRequest
from service.serving.choices import Choice
from service.serving.door import Door, closed
from service.serving.engine import EngineStatus, Sampling
from service.serving.residency import Residency, TooManyPins
from service.serving.rows import generated_row, scored_row
from service.serving.structures import Structure
from service.serving.waiting_room import WaitingRoom
from service.telemetry import logger

_log = logger(__name__)


class _Sequence(msgspec.Struct, frozen=True):
    call: Call
    row: Row
    index: int
    """Which of the call's."""
    choice: Choice | None = None
    """None: it is scored."""


class GenerationLoop:
    """`turn` and `end` are for the thread that owns the model, `wanted` and the rest for any."""

    def __init__(
        self,
        backend: Backend,
        make_choice: Callable[[int, Sampling, Structure | None], Choice],
        *,
        max_resident: int,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._backend = backend
        self._make_choice = make_choice
        self._residency = Residency(max_resident, time.time)
        self._admission = Admission(max_batch, self._residency)
        self.door = Door(WaitingRoom(max_queue, max_batch))
        self._sequences: dict[int, _Sequence] = {}
        self._keys = itertools.count(1)
        self._generated = 0
        self._courier = Courier()
        self._answering = False
        self._stopping = False
        self._ended = threading.Event()
        self._loader = ThreadPoolExecutor(2, thread_name_prefix="adapter-files")
        self._status = self._observe()

    @property
    def wanted(self) -> bool:
        """Whether a turn would do something now."""
        return not self.ended and (not self.door.is_quiet or self._backend.busy)

    @property
    def answering(self) -> bool:
        """Whether the last turn had somebody in it who waits for one token after the other."""
        return self._answering

    @property
    def ended(self) -> bool:
        """Whether turns will never do anything again."""
        return self._ended.is_set()

    def submit(self, call: Call) -> None:
        """Let a call in. Raises EngineBusy if it may not wait, and EngineUnavailable once closed.

        Here and not in a turn: who is refused does not wait for the step in hand.
        """
        self.door.enter(call, partial(self._submit, call))

    def cancel(self, call: Call) -> None:
        """Free a call's places, unless it has ended."""
        if not self.door.is_shut:
            self.door.put(partial(self._withdraw, call))

    def prefetch(self, ref: RevisionRef) -> None:
        """Have a revision loaded once that holds nobody up. Raises EngineUnavailable if closed."""
        self.door.leave(partial(self._prefetch, ref))

    def pin(self, refs: Collection[RevisionRef]) -> "Future[None]":
        """Make these the pinned ones; the future raises Conflict when they are too many.

        Raises EngineUnavailable once closed.
        """
        done: Future[None] = Future()
        self.door.leave(partial(self._pin, refs, done))
        return done

    def status(self) -> EngineStatus:
        """Report how it was after the last round. Raises EngineUnavailable once closed."""
        self.door.require_open()
        return self._status

    def close(self) -> None:
        """Fail what is under way. Blocks until the thread that drives it has done so."""
        if self.door.shut():
            self.door.put(self._stop)
        self._ended.wait()
        self._loader.shutdown()

    # From here on: the thread that owns the model.

    def turn(self) -> bool:
        """Hear what was left, run at most one round, hand out what it brought; never blocks.

        Tells whether there was anything to do.
        """
        if not self.wanted:
            return False
        try:
            self.door.hear()
            self._answering = any(one.choice is not None for one in self._sequences.values())
            if self._backend.busy:
                self._round()
        except Exception:  # noqa: BLE001 - nobody may wait for an answer that never comes
            _log.exception("generation.loop_failed")
            self._fail_all(EngineUnavailable("the generation engine failed"))
        self._status = self._observe()
        self._courier.deliver()
        if self._stopping:
            self.end()
        return True

    def end(self) -> None:
        """Fail what is under way and do nothing ever after; whoever drives it may go then."""
        if self.ended:
            return
        self.door.shut()
        try:
            self.door.hear()
            self._fail_all(closed())
            self._courier.deliver()
        finally:
            self._ended.set()

    def _submit(self, call: Call) -> None:
        keys = [next(self._keys) for _ in range(call.parts)]
        revision = call.request.revision
        asked = Asked(call.tenant, call.weight, revision, call.prompt_tokens, call.places)
        self._admission.offer(keys, asked)
        call.open.update(keys)
        for index, key in enumerate(keys):
            self._sequences[key] = self._sequence(call, key, index)
        self._admit()

    def _sequence(self, call: Call, key: int, index: int) -> _Sequence:
        request = call.request
        adapter = None if request.revision is None else self._backend.name(request.revision)
        if isinstance(request, ScoreRequest):
            return _Sequence(call, scored_row(key, adapter, request.prompts[index]), index)
        choice = self._make_choice(index, request.sampling, call.structure(index))
        row = generated_row(key, adapter, request, index, choice.ends, choice.structure)
        return _Sequence(call, row, index, choice)

    def _admit(self) -> None:
        decision = self._admission.decide()
        for ref, evict in decision.loads:
            if evict is not None:
                self._backend.remove(evict)
            self._loader.submit(self._prepare, ref, time.perf_counter())
        if decision.run:
            self._backend.add([self._begin(key, key in decision.ahead) for key in decision.run])

    def _begin(self, key: int, ahead: bool) -> Row:
        """Note that a sequence is in the batch from now on; give its row."""
        sequence = self._sequences[key]
        sequence.call.begin()
        if not sequence.call.outside:
            self.door.waits_no_more(sequence.call)
        # Nobody waits for a score as one does for the first token.
        return replace(sequence.row, ahead=ahead and sequence.choice is not None)

    def _prefetch(self, ref: RevisionRef) -> None:
        self._residency.want(ref)
        self._admit()

    def _pin(self, refs: Collection[RevisionRef], done: "Future[None]") -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            self._residency.pin(refs)
        except TooManyPins as fault:
            done.set_exception(too_many_pins(str(fault)))
        else:
            done.set_result(None)
            self._admit()

    def _prepare(self, ref: RevisionRef, began: float) -> None:
        """Read the files; the one thing here that runs on another thread."""
        try:
            self.door.put(partial(self._install, ref, self._backend.prepare(ref), began))
        except Exception as fault:  # noqa: BLE001 - whoever waits for it must hear of any fault
            self.door.put(partial(self._load_failed, ref, fault))

    def _install(self, ref: RevisionRef, prepared: Any, began: float) -> None:
        try:
            self._backend.install(ref, prepared)
        except Exception as fault:  # noqa: BLE001 - as above
            self._load_failed(ref, fault)
            return
        self._residency.loaded(ref, time.perf_counter() - began)
        self._admit()

    def _load_failed(self, ref: RevisionRef, fault: Exception) -> None:
        _log.error(
            "adapter.not_loaded",
            tenant=ref.tenant,
            adapter=ref.adapter,
            digest=ref.digest,
            exc_info=fault,
        )
        ours = EngineUnavailable("the generation engine failed to load the model")
        error = fault if isinstance(fault, ServiceError) else ours
        self._fail(self._admission.failed(ref), error)
        self._admit()

    def _round(self) -> None:
        result = self._backend.round()
        for broken in result.faults:
            _log.error("generation.step_failed", rows=len(result.lost), exc_info=broken)
        self._fail(result.lost, EngineUnavailable("the generation engine failed at this request"))
        self._generated += len(result.picks)
        self._admission.generated(pick.key for pick in result.picks)
        astray: dict[int, ServiceError] = {}
        done = [pick.key for pick in result.picks if self._take(pick, astray)]
        done += [score.key for score in result.scores if self._tell(score)]
        self._finish(done)
        for key, fault in astray.items():
            # Another choice of its call may have taken it along.
            if key in self._sequences:
                self._fail([key], fault)
        if done or result.lost or astray:
            self._admit()

    def _take(self, pick: Pick, astray: dict[int, ServiceError]) -> bool:
        """Hand a token to its choice; True when that was its last."""
        sequence = self._sequences.get(pick.key)
        if sequence is None or sequence.choice is None:
            return False
        try:
            piece = sequence.choice.take(pick.token, pick.logprob, pick.top)
        except ServiceError as fault:
            astray[pick.key] = fault
            return False
        if piece is None:
            return False
        self._courier.add(sequence.call, sequence.call.marked(piece))
        return piece.finish_reason is not None

    def _tell(self, score: Score) -> bool:
        """Hand a score over; False if nobody waits for it any more."""
        sequence = self._sequences.get(score.key)
        if sequence is None:
            return False
        self._courier.add(sequence.call, Scored(sequence.index, score.logprobs))
        return True

    def _finish(self, keys: Collection[int]) -> None:
        calls = [self._sequences[key].call for key in keys]
        self._let_go(keys)
        for call in dict.fromkeys(calls):
            if not call.open:
                self._courier.add(call, None)

    def _fail(self, keys: Iterable[int], error: ServiceError) -> None:
        """End the calls of these sequences, their other sequences too."""
        for call in dict.fromkeys(self._sequences[key].call for key in keys):
            self._let_go(list(call.open))
            self._courier.add(call, copy.copy(error))

    def _fail_all(self, error: ServiceError) -> None:
        self._fail(list(self._sequences), error)

    def _withdraw(self, call: Call) -> None:
        if call.open:
            self._let_go(list(call.open))
            self._admit()

    def _let_go(self, keys: Collection[int]) -> None:
        if not keys:
            return
        self._backend.drop(keys)
        self._admission.withdraw(keys)
        self.door.depart(len(keys))
        for key in keys:
            call = self._sequences.pop(key).call
            call.open.discard(key)
            if not call.open:
                self.door.waits_no_more(call)

    def _stop(self) -> None:
        self._stopping = True

    def _observe(self) -> EngineStatus:
        use = self._backend.use
        return EngineStatus(
            ready=True,
            running=self._admission.running,
            waiting=self._admission.waiting,
            residents=self._residency.residents(),
            generated_tokens=self._generated,
            adapter_loads=self._residency.loads,
            adapter_evictions=self._residency.evictions,
            adapter_hits=self._residency.hits,
            adapter_misses=self._residency.misses,
            adapter_load_failures=self._residency.failures,
            adapter_load_times=self._residency.load_times,
            kv_blocks_used=use.used,
            kv_blocks=use.total,
            preemptions=use.preemptions,
            prefix_hits=use.reused,
        )


def too_many_pins(how_many: str) -> Conflict:
    """Say that a place must be left for what is not pinned."""
    message = f"Too many revisions are pinned: {how_many}. One must be left for the others."
    return Conflict(message, param="pinned", code="too_many_pins")
