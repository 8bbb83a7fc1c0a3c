"""What all engines on a generation loop have in common."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from msgspec.structs import replace

from adapters_store import RevisionRef
from service.base.description import BaseDescription
from service.rendering.detokenizer import Detokenizer
from service.rendering.renderer import Renderer
from service.serving.backend import Backend
from service.serving.calls import Call, Scored, ScoreRequest
from service.serving.choices import Choice
from service.serving.engine import EngineStatus, GenerationRequest, Piece, Sampling
from service.serving.generation_loop import GenerationLoop
from service.serving.requests import check_prompts, check_request
from service.serving.structures import Structure, Structures


class LoopedEngine:
    """Implements `Engine` on `loop`, which somebody drives; before, nothing is answered.

    `held` tells the base's quantization and compute dtype, `room` the most tokens of one sequence.
    """

    def __init__(
        self,
        backend: Backend,
        renderer: Renderer,
        *,
        held: tuple[str, str],
        room: int,
        max_resident: int,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._held = held
        self._room = room
        self._base: BaseDescription = renderer.base
        self._tokenizer = renderer.tokenizer
        self._vocabulary = int(self._base.config["vocab_size"])
        self._structures = Structures(
            renderer.tokenizer, self._vocabulary, self._base.eos_token_ids
        )
        self.loop = GenerationLoop(
            backend,
            self._choice,
            max_resident=max_resident,
            max_batch=max_batch,
            max_queue=max_queue,
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield pieces as the batch goes on; closing early frees the place at the next step."""
        self.check(request)
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
        """Take the prompts into the running batch, beside everyone else."""
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

    def check(self, request: GenerationRequest) -> None:
        """Raise BadRequest for what cannot be run here."""
        check_request(request, self._base.context_length, self._vocabulary)

    def _choice(self, index: int, sampling: Sampling, structure: Structure | None) -> Choice:
        detokenizer = Detokenizer(self._tokenizer, sampling.shown)
        return Choice(index, sampling, self._base.eos_token_ids, detokenizer, structure)
