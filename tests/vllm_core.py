"""vLLM on the tests' tiny base: started once, in a thread and an event loop of its own."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from adapters_store import AdapterStore, RevisionRef
from service.base.description import BaseDescription
from service.rendering.renderer import Renderer
from service.runtime.client import RemoteEngine
from service.runtime.server import EngineServer
from service.serving.engine import Engine
from service.serving.vllm.options import Options

T = TypeVar("T")
END_SECONDS = 5


class Core:
    """vLLM's client and its loop. Engines are made on it, one after the other."""

    def __init__(self, base: BaseDescription, options: Options) -> None:
        self.base = base
        self.options = options
        self.renderer = Renderer(base)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        with warnings.catch_warnings():
            # What vLLM's own imports use is not ours to mend.
            warnings.simplefilter("ignore")
            self.llm, self.dtype = self.run(self._start())

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Have it done over there; blocks."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def there(self, what: Coroutine[Any, Any, T]) -> T:
        """Have it done over there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, self._loop))

    def stop(self) -> None:
        """End vLLM's processes."""
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def engine(self, store: AdapterStore, options: Options, max_queue: int) -> Any:
        """Make an engine, over there."""
        from service.serving.vllm.engine import VllmEngine

        return VllmEngine(
            self.llm,
            store,
            self.renderer,
            _counter(),
            options,
            dtype=self.dtype,
            max_queue=max_queue,
        )

    @asynccontextmanager
    async def serving(
        self, store: AdapterStore, folder: Path, options: Options, max_queue: int = 64
    ) -> AsyncIterator[Engine]:
        """Serve an engine of its own as a runtime does, and give what the API would see."""
        engine = await self.there(self.engine(store, options, max_queue))
        server = EngineServer(engine, folder / "run" / "generation.sock")
        await self.there(server.start())
        remote = RemoteEngine(folder / "run" / "generation.sock")
        try:
            yield remote
        finally:
            await remote.close()
            await self.there(server.stop(0.0))
            await self.there(engine.close())

    async def _end(self) -> None:
        self.llm.shutdown()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=END_SECONDS)

    async def _start(self) -> tuple[Any, str]:
        from service.serving.vllm.start import start

        return start(self.base, self.options)


@contextmanager
def core(base: BaseDescription, options: Options) -> Iterator[Core]:
    """Start vLLM, and end it."""
    made = Core(base, options)
    try:
        yield made
    finally:
        made.stop()


def _counter() -> Any:
    numbers: dict[RevisionRef, int] = {}

    async def allot(ref: RevisionRef) -> int:
        return numbers.setdefault(ref, len(numbers) + 1)

    return allot
