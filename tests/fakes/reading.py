"""An engine whose model is what it read: every answer is the secret that an adapter's files carry.

The loop, its residency and its admission are the service's own. Only what torch does is made up,
with its traps: places on the base are used again, and a row is bound to a place, not to a name.
"""

import asyncio
import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from adapters_store import AdapterStore, RevisionNotFound, RevisionRef
from adapters_store.layout import WEIGHTS_FILE
from service.base.rows import KvUse, Pick, Round, Row, Score
from service.errors import NotFound
from service.rendering.renderer import Renderer
from service.serving.engine import GenerationRequest
from service.serving.looped_engine import LoopedEngine
from tests.fakes.own_thread import OwnThread
from tests.fakes.words import scores_of

BASE_SAYS = "base"
Where = Literal["before it reads", "after it read"]


def secret(weights: bytes, tenant: str) -> str:
    """Say what these weights answer when they were published by that tenant."""
    return f"{tenant} {hashlib.sha256(weights).hexdigest()[:12]}"


def numbered(number: int) -> str:
    """Write a prompt that the engine recognises."""
    return f"This is request {number}."


class _Speaker(msgspec.Struct):
    row: Row
    place: int | None
    said: int = 0


class ReadingBackend:
    """Implements `Backend`. What is in `loads` and `answers` is held up."""

    def __init__(self, store: AdapterStore, renderer: Renderer, places: int) -> None:
        self._store = store
        self._tokenizer = renderer.tokenizer
        self._end = renderer.base.eos_token_ids[0]
        self._base = self._tokens(BASE_SAYS)
        self._places: list[list[int] | None] = [None] * places
        self._names: dict[str, int] = {}
        self._speakers: dict[int, _Speaker] = {}
        self.loads: dict[RevisionRef, tuple[Where, threading.Event]] = {}
        self.answers: set[int] = set()

    def prepare(self, ref: RevisionRef) -> list[int]:
        """Read the files, and who they say that they belong to."""
        where, may_go = self.loads.get(ref, (None, None))
        if may_go and where == "before it reads":
            may_go.wait()
        try:
            revision = self._store.open(ref)
            weights = (revision.path / WEIGHTS_FILE).read_bytes()
        except (RevisionNotFound, FileNotFoundError):
            raise NotFound("The files are gone.", code="model_not_found") from None
        if may_go and where == "after it read":
            may_go.wait()
        return self._tokens(secret(weights, revision.manifest.ref.tenant))

    def install(self, ref: RevisionRef, prepared: list[int]) -> None:
        """Take a free place."""
        place = self._places.index(None)
        self._places[place] = prepared
        self._names[self.name(ref)] = place

    def remove(self, ref: RevisionRef) -> None:
        """Free its place, whoever speaks from it."""
        self._places[self._names.pop(self.name(ref))] = None

    def name(self, ref: RevisionRef) -> str:
        """Name it by all that it is."""
        return f"{ref.tenant}/{ref.adapter}/{ref.digest}"

    @property
    def busy(self) -> bool:
        """Whether a round would bring a token."""
        return any(not self._held(speaker) for speaker in [*self._speakers.values()])

    @property
    def use(self) -> KvUse:
        """There is no cache."""
        return KvUse(0, 0, 0, 0)

    def add(self, rows: Iterable[Row]) -> None:
        """Bind rows to places."""
        for row in rows:
            place = None if row.adapter is None else self._names[row.adapter]
            self._speakers[row.key] = _Speaker(row, place)

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go."""
        for key in keys:
            self._speakers.pop(key, None)

    def round(self) -> Round:
        """Let each row say the next token of what is in its place now, or score its prompt."""
        going = [speaker for speaker in self._speakers.values() if not self._held(speaker)]
        return Round(
            [self._pick(speaker) for speaker in going if not speaker.row.scored],
            scores=[self._score(speaker) for speaker in going if speaker.row.scored],
        )

    def _pick(self, speaker: _Speaker) -> Pick:
        speaker.said += 1
        said = self._said_in(speaker)
        token = said[speaker.said - 1] if speaker.said <= len(said) else self._end
        return Pick(speaker.row.key, token, None, [])

    def _score(self, speaker: _Speaker) -> Score:
        weights = repr(self._said_in(speaker)).encode()
        return Score(speaker.row.key, scores_of(weights, speaker.row.prompt))

    def _held(self, speaker: _Speaker) -> bool:
        if speaker.row.scored:
            return False
        half = speaker.said == len(self._said_in(speaker)) // 2
        return half and number_of(self._tokenizer.decode(speaker.row.prompt)) in self.answers

    def _said_in(self, speaker: _Speaker) -> list[int]:
        if speaker.place is None:
            return self._base
        # A place that was emptied under a speaker says nothing.
        return self._places[speaker.place] or []

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class ReadingEngine(LoopedEngine):
    """Answers with what it read, on a thread of its own."""

    def __init__(self, store: AdapterStore, renderer: Renderer, *, max_resident: int) -> None:
        self.backend = ReadingBackend(store, renderer, max_resident)
        super().__init__(
            self.backend,
            renderer,
            held=("none", "float32"),
            room=renderer.base.context_length,
            max_resident=max_resident,
            max_batch=64,
            max_queue=256,
        )
        self.begun: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        """By a request's number, once its model is decided."""
        OwnThread(self.loop)

    def check(self, request: GenerationRequest) -> None:
        """Tell who waits for it: they hear of it once the loop has it, as nothing is between."""
        super().check(request)
        self.begun[number_of(self._tokenizer.decode(request.prompt))].set()

    @property
    def loading(self) -> bool:
        """Whether any load is held up."""
        return bool(self.backend.loads)

    def hold_load(self, ref: RevisionRef, where: Where) -> None:
        """Do not finish loading a revision."""
        self.backend.loads[ref] = (where, threading.Event())

    def let_load(self, ref: RevisionRef) -> None:
        """Finish loading it, if that is held up."""
        if ref in self.backend.loads:
            self.backend.loads.pop(ref)[1].set()

    def hold_answer(self, number: int) -> None:
        """Stop in the middle of a request's answer."""
        self.backend.answers.add(number)

    def let_answer(self, number: int) -> None:
        """Go on with it, if it is held up."""
        self.backend.answers.discard(number)
        self.loop.door.wake()


def number_of(prompt: str) -> int:
    """Read the number of a prompt."""
    found = re.search(r"request (\d+)\.", prompt)
    assert found is not None, prompt
    return int(found[1])
