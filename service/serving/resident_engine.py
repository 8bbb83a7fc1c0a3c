"""`ResidentEngine`: any mixture of adapters in one batch on the resident base."""

from collections.abc import Collection, Iterable

from adapters_store import AdapterStore, RevisionRef
from service.base.description import BaseDescription
from service.base.generating.decoding import DecodingBatch
from service.base.generating.model import GenerationModel
from service.base.lora_files import LoraFiles
from service.base.lora_rules import BadLora
from service.base.rows import KvUse, Round, Row
from service.base.segmented.base import SegmentedBase
from service.errors import BadRequest
from service.rendering.renderer import Renderer
from service.serving.admission import at_once
from service.serving.engine import GenerationRequest
from service.serving.engine_names import engine_name
from service.serving.looped_engine import LoopedEngine
from service.serving.opening import not_loadable, opened


class ResidentEngine(LoopedEngine):
    """Answers on the resident base, which may be shared with training, on one thread.

    That thread drives `loop`, or an `OwnThread` does.
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
        model = GenerationModel(
            base,
            most=at_once(max_batch),
            most_adapters=max_resident,
            tokens=kv_tokens,
            context=description.context_length,
        )
        model.warm()
        super().__init__(
            SegmentedBackend(model, base, description, store),
            renderer,
            held=held,
            room=model.blocks.count * model.blocks.size,
            max_resident=max_resident,
            max_batch=max_batch,
            max_queue=max_queue,
        )

    def check(self, request: GenerationRequest) -> None:
        """Refuse also what would not fit into the cache."""
        super().check(request)
        _check_room(request, self._room)


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
        _, files = opened(ref, self._store, self._base, self._shapes)
        return files

    def install(self, ref: RevisionRef, prepared: LoraFiles) -> None:
        """Put it on the base."""
        try:
            self._adapters.add(self.name(ref), prepared)
        except BadLora as fault:
            raise not_loadable(str(fault)) from None

    def remove(self, ref: RevisionRef) -> None:
        """Take it off the base."""
        self._adapters.remove(self.name(ref))

    def name(self, ref: RevisionRef) -> str:
        """Give its name in the model."""
        return engine_name(ref)

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
