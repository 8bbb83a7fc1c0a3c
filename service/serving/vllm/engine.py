"""`VllmEngine`: any mixture of adapters on a base that vLLM holds, in processes of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from adapters_store import AdapterStore
from service.errors import BadRequest, EngineUnavailable
from service.rendering.renderer import Renderer
from service.serving.engine import EngineStatus, GenerationRequest, Piece
from service.serving.looped_engine import LoopedEngine
from service.serving.vllm.backend import VllmBackend
from service.serving.vllm.loading import Allot, Loader
from service.serving.vllm.options import Options
from service.serving.vllm.shelf import Shelf
from service.serving.vllm.turns import Turns

HEALTH_SECONDS = 0.2
"""Between two looks whether vLLM's processes are there while nobody asks them anything."""
PENALTY = 2.0
"""What vLLM takes, as OpenAI's API does."""


class VllmEngine(LoopedEngine):
    """Who runs, and on which adapters, is decided here; vLLM is given what it can run at once.

    Belongs to the event loop it is made in. `fault` is done once it answers nothing any more.
    """

    def __init__(
        self,
        llm: Any,
        store: AdapterStore,
        renderer: Renderer,
        allot: Allot,
        options: Options,
        *,
        dtype: str,
        max_queue: int,
    ) -> None:
        self._llm = llm
        self.fault: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._shelf = Shelf(llm, options.max_resident, self.fault)
        self._loader = Loader(
            store, renderer.base, self._shelf, allot, max_rank=options.max_lora_rank
        )
        backend = VllmBackend(llm, self._shelf, self._loader.load)
        super().__init__(
            backend,
            renderer,
            held=(options.quantization, dtype),
            room=renderer.base.context_length,
            max_resident=options.max_resident,
            max_batch=options.max_batch,
            max_queue=max_queue,
        )
        backend.wake = Turns(self.loop).wake
        self._watching = asyncio.create_task(self._watch())

    def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yield pieces as they come; by the number that the request says its revision has.

        Raises EngineUnavailable at once where that is another's.
        """
        if request.revision is not None and request.engine_id is not None:
            self._loader.learn(request.revision, request.engine_id)
        return super().generate(request)

    async def status(self) -> EngineStatus:
        """Report; raises EngineUnavailable when vLLM cannot be relied on any more."""
        if self.fault.done() or self._llm.errored:
            raise EngineUnavailable("the generation engine stopped")
        return await super().status()

    async def sleep(self) -> None:
        """Put weights and adapters into main memory, and forget keys and values.

        Nothing may run or be loaded until `wake`, and vLLM was started with `sleeps`.
        """
        await self._llm.sleep(level=1)

    async def wake(self) -> None:
        """Take them back."""
        await self._llm.wake_up()

    async def close(self) -> None:
        """Answer nothing any more, and leave vLLM without adapters; it can be used again."""
        self._watching.cancel()
        await super().close()
        if not self.fault.done():
            await self._shelf.clear()

    async def end(self) -> None:
        """End vLLM's processes, and with them all that they hold; whoever asks is told nothing."""
        self._watching.cancel()
        await asyncio.to_thread(self._llm.shutdown)

    def check(self, request: GenerationRequest) -> None:
        """Refuse also what vLLM would."""
        super().check(request)
        for field in ("presence_penalty", "frequency_penalty"):
            if abs(getattr(request.sampling, field)) > PENALTY:
                raise BadRequest(f"{field} is out of range", param=field)

    async def _watch(self) -> None:
        while not self.fault.done():
            try:
                await self._llm.check_health()
            except Exception as fault:  # noqa: BLE001 - whatever it is, there is no engine any more
                if not self.fault.done():
                    self.fault.set_result(fault)
            await asyncio.sleep(HEALTH_SECONDS)
