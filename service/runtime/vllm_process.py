"""A runtime that answers with vLLM, and trains nothing: the composition root of its side."""

import asyncio
import os
import signal
from typing import Any

from adapters_store import RevisionRef
from service.adapters.engine_ids import EngineIds
from service.adapters.storing import adapter_store
from service.base.description import describe
from service.database import Database
from service.heap import settle
from service.rendering.renderer import Renderer
from service.runtime.answering import answer
from service.runtime.parent import SUPERVISOR_PID
from service.runtime.pins import keep_pins
from service.serving.vllm.options import Options
from service.settings import Settings
from service.telemetry import logger

_log = logger(__name__)


async def run(settings: Settings, owner: str) -> None:
    """Answer requests until SIGTERM or SIGINT. In the main thread.

    Raises MixedUp where vLLM answers with other adapters than it is asked for, and whatever ends
    vLLM: who starts this process starts it anew, and with it vLLM, its adapters and its pins.
    """
    # Until there is somebody to answer, a signal ends this process and with it what it started.
    database = Database(settings.sqlalchemy_url)
    try:
        engine = await _start(settings, database)
        settle()
        _log.info("runtime.ready", runtime_id=owner, role="generation", engine="vllm")
        await _answer(engine, settings, database)
    finally:
        await database.close()
    _log.info("runtime.stopped", runtime_id=owner)


async def _start(settings: Settings, database: Database) -> Any:
    # Only this process pays for vLLM.
    from service.serving.vllm.checked import checked
    from service.serving.vllm.engine import VllmEngine
    from service.serving.vllm.start import start

    # vLLM's processes end with this one: see service/vllm_main.py.
    os.environ[SUPERVISOR_PID] = str(os.getpid())
    renderer = Renderer(describe(settings.base_model, settings.base_name))
    options = options_of(settings)
    # In this thread and not beside the event loop, in which nothing happens yet.
    llm, dtype = start(renderer.base, options)
    await checked(llm, renderer, options, dtype)

    async def allot(ref: RevisionRef) -> int:
        async with database.write() as session:
            return await EngineIds(session).ensure(ref)

    store = adapter_store(settings)
    return VllmEngine(
        llm, store, renderer, allot, options, dtype=dtype, max_queue=settings.max_queue
    )


def options_of(settings: Settings) -> Options:
    """Read off what concerns vLLM."""
    return Options(
        max_resident=settings.max_resident_adapters,
        max_batch=settings.max_batch,
        max_lora_rank=settings.max_lora_rank,
        compute_dtype=settings.compute_dtype,
        quantization=settings.vllm_quantization,
        memory_share=settings.vllm_memory_share,
        kv_tokens=settings.kv_tokens,
        eager=settings.vllm_eager,
    )


async def _answer(engine: Any, settings: Settings, database: Database) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    duties = [
        asyncio.create_task(answer(engine, settings, stop)),
        asyncio.create_task(
            keep_pins(engine, database, settings.max_resident_adapters, stop),
        ),
    ]
    try:
        await asyncio.wait({*duties, engine.fault}, return_when=asyncio.FIRST_COMPLETED)
        if engine.fault.done():
            # Whoever waits is told, before the connections end.
            engine.loop.end()
    finally:
        stop.set()
        await asyncio.gather(*duties)
    if engine.fault.done():
        raise engine.fault.result()
