"""`ResidentEngine`: any mixture of adapters in one batch on the resident base."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from msgspec.structs import replace

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    InvalidName,
    Origin,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.parity import differences
from service.base.description import BaseDescription
from service.base.generating.decoding import DecodingBatch
from service.base.generating.model import GenerationModel
from service.base.lora_files import LoraFiles, read_lora
from service.base.lora_rules import BadLora
from service.base.rows import KvUse, Round, Row
from service.base.segmented.base import SegmentedBase
from service.errors import AdaptersUnavailable, BadRequest, Conflict, NotFound
from service.rendering.detokenizer import Detokenizer
from service.rendering.renderer import Renderer
from service.serving.admission import spare_places
from service.serving.calls import Call, Scored, ScoreRequest
from service.serving.choices import Choice
from service.serving.engine import EngineStatus, GenerationRequest, Piece, Sampling
from service.serving.generation_loop import GenerationLoop
from service.serving.requests import check_prompts, check_request
from service.serving.structures import Structure, Structures


class ResidentEngine:
    """Implements `Engine`. The base may be shared with training, on one thread.

    That thread drives `loop`, or an `OwnThread` does; before, nothing is answered. `held` tells
    the base's quantization and compute dtype.
    """

    def __init__(
        self,
        base: SegmentedBase,
        description: BaseDescription,
        store: AdapterStore,
        renderer: Renderer,
        *,
        held: tuple[str, str],
        max_resident: int,
        max_batch: int,
        max_queue: int,
        kv_tokens: int = 0,
    ) -> None:
        self._base = description
        self._held = held
        self._tokenizer = renderer.tokenizer
        self._vocabulary = int(description.config["vocab_size"])
        self._structures = Structures(
            renderer.tokenizer, self._vocabulary, description.eos_token_ids
        )
        model = GenerationModel(
            base,
            most=max_batch + spare_places(max_batch),
            most_adapters=max_resident,
            tokens=kv_tokens,
            context=description.context_length,
        )
        model.warm()
        self._room = model.blocks.count * model.blocks.size
        self.loop = GenerationLoop(
            SegmentedBackend(model, base, description, store),
            self._choice,
            max_resident=max_resident,
            max_batch=max_batch,
            max_queue=max_queue,
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield pieces as the batch goes on; closing early frees the place at the next step."""
        check_request(request, self._base.context_length, self._vocabulary)
        _check_room(request, self._room)
        call = Call(request, await self._structures.of(request.sampling))
        self.loop.submit(call)
        try:
            async for piece in call.answers():
                if isinstance(piece, Piece):
                    yield piece
        finally:
            self.loop.cancel(call)

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Take the prompts into the running batch, chunk by chunk, beside everyone else."""
        check_prompts(prompts, min(self._base.context_length, self._room), self._vocabulary)
        call = Call(ScoreRequest(revision, prompts))
        self.loop.submit(call)
        scores: dict[int, list[float]] = {}
        try:
            async for scored in call.answers():
                if isinstance(scored, Scored):
                    scores[scored.index] = scored.logprobs
        finally:
            self.loop.cancel(call)
        return [scores[index] for index in range(len(prompts))]

    async def prefetch(self, revision: RevisionRef) -> None:
        """Have it loaded when a place can be had without holding anybody up."""
        self.loop.prefetch(revision)

    async def pin(self, revisions: Collection[RevisionRef]) -> None:
        """Make these the pinned ones."""
        await asyncio.wrap_future(self.loop.pin(revisions))

    async def status(self) -> EngineStatus:
        """Report how it was after the last step."""
        quantization, compute_dtype = self._held
        return replace(self.loop.status(), quantization=quantization, compute_dtype=compute_dtype)

    async def close(self) -> None:
        """Answer nothing any more; requests under way raise EngineUnavailable."""
        await asyncio.to_thread(self.loop.close)

    def _choice(self, index: int, sampling: Sampling, structure: Structure | None) -> Choice:
        ends, detokenizer = self._base.eos_token_ids, Detokenizer(self._tokenizer)
        return Choice(index, sampling, ends, detokenizer, structure)


class SegmentedBackend:
    """The model and the batch on it, with revisions for names."""

    def __init__(
        self,
        model: GenerationModel,
        base: SegmentedBase,
        description: BaseDescription,
        store: AdapterStore,
    ) -> None:
        self._adapters = model.adapters
        self._shapes = base.shapes
        self._base = description
        self._store = store
        self._batch = DecodingBatch(model, model.chunk_tokens)

    def prepare(self, ref: RevisionRef) -> LoraFiles:
        """Read and check a revision; also that it was made for the base that runs here."""
        try:
            revision = self._store.open(ref)
            _check_origin(revision.manifest.origin, self._base)
            return read_lora(revision.path, self._shapes)
        except (RevisionNotFound, InvalidName):
            message = "The files of this model are not there any more."
            raise NotFound(message, param="model", code="model_not_found") from None
        except StoreUnavailable:
            raise AdaptersUnavailable from None
        except (InvalidAdapter, BadLora) as fault:
            raise _not_loadable(str(fault)) from None

    def install(self, ref: RevisionRef, prepared: LoraFiles) -> None:
        """Put it on the base."""
        try:
            self._adapters.add(self.name(ref), prepared)
        except BadLora as fault:
            raise _not_loadable(str(fault)) from None

    def remove(self, ref: RevisionRef) -> None:
        """Take it off the base."""
        self._adapters.remove(self.name(ref))

    def name(self, ref: RevisionRef) -> str:
        """Derive its name in the model: no other content ever has it."""
        whole = f"{ref.tenant}/{ref.adapter}/{ref.digest}"
        return "r" + hashlib.sha256(whole.encode()).hexdigest()

    @property
    def busy(self) -> bool:
        """Whether a round would do anything."""
        return self._batch.busy

    @property
    def use(self) -> KvUse:
        """How the key-value cache fares."""
        return self._batch.use

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows into the batch."""
        self._batch.add(rows)

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go."""
        self._batch.drop(keys)

    def round(self) -> Round:
        """Run one round."""
        return self._batch.round()


def _check_room(request: GenerationRequest, room: int) -> None:
    """Raise BadRequest for what would not fit into the cache if it were alone there."""
    # The last token is generated and never attended to.
    wanted = len(request.prompt) + request.sampling.max_tokens - 1
    if wanted > room:
        raise BadRequest(
            f"prompt ({len(request.prompt)}) and max_tokens ({request.sampling.max_tokens}) "
            f"exceed the {room} tokens that this engine's cache holds",
            param="max_tokens",
            code="context_length_exceeded",
        )


def _check_origin(origin: Origin, base: BaseDescription) -> None:
    for difference in differences(origin, base):
        raise Conflict(str(difference), param="model", code="adapter_base_mismatch")


def _not_loadable(why: str) -> Conflict:
    message = f"the model cannot be loaded: {why}"
    return Conflict(message, param="model", code="adapter_not_loadable")
