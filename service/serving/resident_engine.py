"""`ResidentEngine`: PEFT's mixed batch on one resident base, driven by the generation loop."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterable

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    InvalidName,
    Origin,
    RevisionNotFound,
    RevisionRef,
)
from service.base.decoding import DecodingBatch
from service.base.description import BaseDescription
from service.base.loading import LoadedBase
from service.base.lora_files import BadLora, LoraFiles, read_lora
from service.base.mixed_lora import MixedLora
from service.base.rows import Round, Row
from service.errors import Conflict, NotFound
from service.rendering.detokenizer import Detokenizer
from service.rendering.renderer import Renderer
from service.serving.calls import Call
from service.serving.choices import Choice
from service.serving.engine import EngineStatus, GenerationRequest, Piece, Sampling
from service.serving.generation_loop import GenerationLoop
from service.serving.requests import check_request


class ResidentEngine:
    """Implements `Engine`. It owns `loaded`: nothing else may use that model from now on."""

    def __init__(
        self,
        loaded: LoadedBase,
        store: AdapterStore,
        renderer: Renderer,
        *,
        max_resident: int,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._base = loaded.description
        self._tokenizer = renderer.tokenizer
        self._vocabulary = int(self._base.config["vocab_size"])
        self._loop = GenerationLoop(
            MixedBackend(loaded, store),
            self._choice,
            max_resident=max_resident,
            max_batch=max_batch,
            max_queue=max_queue,
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield pieces as the batch goes on; closing early frees the place at the next step."""
        check_request(request, self._base.context_length, self._vocabulary)
        call = Call(request)
        self._loop.submit(call)
        try:
            async for piece in call.pieces():
                yield piece
        finally:
            self._loop.cancel(call)

    async def status(self) -> EngineStatus:
        """Report how it was after the last step."""
        return self._loop.status()

    async def close(self) -> None:
        """End the thread; requests under way raise EngineUnavailable."""
        await asyncio.to_thread(self._loop.close)

    def _choice(self, index: int, sampling: Sampling) -> Choice:
        return Choice(index, sampling, self._base.eos_token_ids, Detokenizer(self._tokenizer))


class MixedBackend:
    """The model and the batch on it, with revisions for names."""

    def __init__(self, loaded: LoadedBase, store: AdapterStore) -> None:
        self._base = loaded.description
        self._store = store
        self._lora = MixedLora(loaded.model)
        self._batch = DecodingBatch(self._lora.forward, self._lora.device)

    def prepare(self, ref: RevisionRef) -> LoraFiles:
        """Read and check a revision; also that it was made for the base that runs here."""
        try:
            revision = self._store.open(ref)
            _check_origin(revision.manifest.origin, self._base)
            return read_lora(revision.path, self._lora.shapes)
        except (RevisionNotFound, InvalidName):
            message = "The files of this model are not there any more."
            raise NotFound(message, param="model", code="model_not_found") from None
        except (InvalidAdapter, BadLora) as fault:
            raise _not_loadable(str(fault)) from None

    def install(self, ref: RevisionRef, prepared: LoraFiles) -> None:
        """Put it on the base."""
        try:
            self._lora.add(self.name(ref), prepared)
        except BadLora as fault:
            raise _not_loadable(str(fault)) from None

    def remove(self, ref: RevisionRef) -> None:
        """Take it off the base."""
        self._lora.remove(self.name(ref))

    def name(self, ref: RevisionRef) -> str:
        """Derive its name in the model: no other content ever has it."""
        whole = f"{ref.tenant}/{ref.adapter}/{ref.digest}"
        return "r" + hashlib.sha256(whole.encode()).hexdigest()

    @property
    def busy(self) -> bool:
        """Whether a round would do anything."""
        return self._batch.busy

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows into the batch."""
        self._batch.add(rows)

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go."""
        self._batch.drop(keys)

    def round(self) -> Round:
        """Run one round."""
        return self._batch.round()


def _check_origin(origin: Origin, base: BaseDescription) -> None:
    for what, made_for, here in (
        ("base", origin.base_digest, base.digest),
        ("tokenizer", origin.tokenizer_digest, base.tokenizer_digest),
        ("chat template", origin.chat_template_digest, base.chat_template_digest),
    ):
        if made_for != here:
            raise Conflict(
                f"the model was made for another {what} than the one that runs here",
                param="model",
                code="adapter_base_mismatch",
            )


def _not_loadable(why: str) -> Conflict:
    message = f"the model cannot be loaded: {why}"
    return Conflict(message, param="model", code="adapter_not_loadable")
