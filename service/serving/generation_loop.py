"""The engine's thread: lets requests in, runs rounds, hands out pieces. No torch.

Everything that touches the model happens here, on one thread; other threads only leave messages.
"""

import copy
import itertools
import queue
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from adapters_store import RevisionRef
from service.base.rows import Pick, Row
from service.errors import EngineUnavailable, ServiceError
from service.serving.admission import Admission
from service.serving.backend import Backend
from service.serving.calls import Call, Courier
from service.serving.choices import Choice, chances
from service.serving.engine import EngineStatus, Sampling
from service.serving.residency import Residency
from service.telemetry import logger

_log = logger(__name__)


class _Sequence(msgspec.Struct, frozen=True):
    call: Call
    choice: Choice
    row: Row


class GenerationLoop:
    """Starts its thread at once. `submit`, `cancel`, `status` and `close` are for other threads."""

    def __init__(
        self,
        backend: Backend,
        make_choice: Callable[[int, Sampling], Choice],
        *,
        max_resident: int,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._backend = backend
        self._make_choice = make_choice
        self._residency = Residency(max_resident)
        self._admission = Admission(max_batch, max_queue, self._residency)
        self._sequences: dict[int, _Sequence] = {}
        self._keys = itertools.count(1)
        self._generated = 0
        self._courier = Courier()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._closed = False
        self._stopping = False
        self._loader = ThreadPoolExecutor(2, thread_name_prefix="adapter-files")
        self._status = self._observe()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Let a call in. Raises EngineUnavailable once closed."""
        self._leave(partial(self._submit, call))

    def cancel(self, call: Call) -> None:
        """Free a call's places, unless it has ended."""
        if not self._closed:
            self._inbox.put(partial(self._withdraw, call))

    def status(self) -> EngineStatus:
        """Report how it was after the last round. Raises EngineUnavailable once closed."""
        if self._closed:
            raise _closed()
        return self._status

    def close(self) -> None:
        """Fail what is under way and end the thread. Blocks until it has ended."""
        with self._door:
            self._closed = True
            self._inbox.put(self._stop)
        self._thread.join()
        self._loader.shutdown()

    def _leave(self, message: Callable[[], None]) -> None:
        # Behind a lock, so that nothing is left after the message that stops the thread.
        with self._door:
            if self._closed:
                raise _closed()
            self._inbox.put(message)

    # From here on: the loop's own thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._hear()
                self._round()
            except Exception:  # noqa: BLE001 - nobody may wait for an answer that never comes
                _log.exception("generation.loop_failed")
                self._fail_all(EngineUnavailable("the generation engine failed"))
            self._status = self._observe()
            self._courier.deliver()

    def _hear(self) -> None:
        message = None if self._backend.busy else self._inbox.get()
        while True:
            if message is not None:
                message()
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return

    def _submit(self, call: Call) -> None:
        request = call.request
        keys = [next(self._keys) for _ in range(request.sampling.n)]
        if not self._admission.offer(keys, request.revision):
            self._courier.add(call, EngineUnavailable("too many requests are waiting"))
            return
        call.open.update(keys)
        for index, key in enumerate(keys):
            self._sequences[key] = self._sequence(call, key, keys[0], index)
        self._admit()

    def _sequence(self, call: Call, key: int, prompt_id: int, index: int) -> _Sequence:
        request, sampling, ref = call.request, call.request.sampling, call.request.revision
        choice = self._make_choice(index, sampling)
        row = Row(
            key=key,
            prompt_id=prompt_id,
            adapter=None if ref is None else self._backend.name(ref),
            prompt=request.prompt,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=sampling.logit_bias,
            min_tokens=sampling.min_tokens,
            ends=choice.ends,
            logprobs=sampling.logprobs,
            chance=chances(sampling.seed, index).random,
        )
        return _Sequence(call, choice, row)

    def _admit(self) -> None:
        decision = self._admission.decide()
        for ref, evict in decision.loads:
            if evict is not None:
                self._backend.remove(evict)
            self._loader.submit(self._prepare, ref)
        self._backend.add(self._sequences[key].row for key in decision.run)

    def _prepare(self, ref: RevisionRef) -> None:
        """Read the files; the one thing here that runs on another thread."""
        try:
            self._inbox.put(partial(self._install, ref, self._backend.prepare(ref)))
        except Exception as fault:  # noqa: BLE001 - whoever waits for it must hear of any fault
            self._inbox.put(partial(self._load_failed, ref, fault))

    def _install(self, ref: RevisionRef, prepared: Any) -> None:
        try:
            self._backend.install(ref, prepared)
        except Exception as fault:  # noqa: BLE001 - as above
            self._load_failed(ref, fault)
            return
        self._residency.loaded(ref)
        self._admit()

    def _load_failed(self, ref: RevisionRef, fault: Exception) -> None:
        _log.error("adapter.not_loaded", adapter=ref.adapter, digest=ref.digest, exc_info=fault)
        ours = EngineUnavailable("the generation engine failed to load the model")
        error = fault if isinstance(fault, ServiceError) else ours
        self._fail(self._admission.failed(ref), error)
        self._admit()

    def _round(self) -> None:
        result = self._backend.round()
        for fault in result.faults:
            _log.error("generation.step_failed", rows=len(result.lost), exc_info=fault)
        self._fail(result.lost, EngineUnavailable("the generation engine failed at this request"))
        self._generated += len(result.picks)
        done = [pick.key for pick in result.picks if self._take(pick)]
        self._finish(done)
        if done or result.lost:
            self._admit()

    def _take(self, pick: Pick) -> bool:
        """Hand a token to its choice; True when that was its last."""
        sequence = self._sequences.get(pick.key)
        if sequence is None:
            return False
        piece = sequence.choice.take(pick.token, pick.logprob, pick.top)
        if piece is None:
            return False
        self._courier.add(sequence.call, piece)
        return piece.finish_reason is not None

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
        if keys:
            self._backend.drop(keys)
            self._admission.withdraw(keys)
            for key in keys:
                self._sequences.pop(key).call.open.discard(key)

    def _stop(self) -> None:
        self._stopping = True
        self._fail_all(_closed())

    def _observe(self) -> EngineStatus:
        return EngineStatus(
            ready=True,
            running=self._admission.running,
            waiting=self._admission.waiting,
            resident=list(self._residency),
            generated_tokens=self._generated,
            adapter_loads=self._residency.loads,
            adapter_evictions=self._residency.evictions,
        )


def _closed() -> EngineUnavailable:
    return EngineUnavailable("the generation engine is closed")
