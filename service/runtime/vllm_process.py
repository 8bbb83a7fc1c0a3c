"""A runtime that answers with vLLM, and trains nothing: the composition root of its side."""

import asyncio
import os
import time
from typing import Any

from adapters_store import RevisionRef
from service.adapters.engine_ids import EngineIds
from service.adapters.storing import adapter_store
from service.base.capabilities import capabilities
from service.base.card_sharing import Shared
from service.base.description import BaseDescription, describe
from service.database import Database
from service.heap import settle
from service.rendering.renderer import Renderer
from service.runtime import card_split
from service.runtime.answering import answer
from service.runtime.card import Card
from service.runtime.parent import SUPERVISOR_PID
from service.runtime.pins import keep_pins
from service.runtime.serving_turns import keep_turns
from service.runtime.sleeping import Sleeping
from service.serving.sleeping_engine import SleepingEngine
from service.serving.vllm.options import Options
from service.settings import Settings
from service.telemetry import logger
from service.waiting import ending

UNPLANNED_SHARE = 0.6
"""Of a card, for a base of a kind whose needs nobody knows beforehand."""

_log = logger(__name__)


async def run(settings: Settings, owner: str) -> None:
    """Answer requests until SIGTERM or SIGINT. In the main thread.

    Raises CardTooSmall where it has no room beside training, MixedUp where vLLM answers with other
    adapters than it is asked for, and whatever ends vLLM: who starts this process starts it anew,
    and with it vLLM, its adapters and its pins.
    """
    # Until there is somebody to answer, a signal ends this process and with it what it started.
    database = Database(settings.sqlalchemy_url)
    try:
        renderer = Renderer(describe(settings.base_model, settings.base_name))
        split = _split(settings, renderer.base)
        engine = await _start(settings, renderer, split, database)
        settle()
        _log.info("runtime.ready", runtime_id=owner, role="generation", engine="vllm")
        await _answer(engine, settings, split, database)
    finally:
        await database.close()
    _log.info("runtime.stopped", runtime_id=owner)


def _split(settings: Settings, base: BaseDescription) -> Shared | None:
    """Split the card that there is; a child looks, so that no context of CUDA's stays here."""
    if settings.vllm_memory_share:
        return None
    can = capabilities(kernels=False)
    if isinstance(can, str):
        _log.warning("card.not_split", reason=can)
        return None
    if not can.gpus:
        return None
    return card_split.split(settings, base, can.gpus[0].total)


async def _start(
    settings: Settings, renderer: Renderer, split: Shared | None, database: Database
) -> Any:
    # Only this process pays for vLLM.
    from service.serving.vllm.checked import checked
    from service.serving.vllm.engine import VllmEngine
    from service.serving.vllm.start import start

    # vLLM's processes end with this one: see service/vllm_main.py.
    os.environ[SUPERVISOR_PID] = str(os.getpid())
    options = options_of(settings, split)
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


def options_of(settings: Settings, split: Shared | None = None) -> Options:
    """Read off what concerns vLLM, and its part of a card that is split."""
    return Options(
        max_resident=settings.max_resident_adapters,
        max_batch=settings.max_batch,
        max_lora_rank=settings.max_lora_rank,
        compute_dtype=settings.compute_dtype,
        quantization=settings.vllm_quantization,
        memory_share=split.utilization if split else settings.vllm_memory_share or UNPLANNED_SHARE,
        sleeps=split is not None and not split.together,
        kv_tokens=settings.kv_tokens,
        eager=settings.vllm_eager,
    )


async def _answer(
    engine: Any, settings: Settings, split: Shared | None, database: Database
) -> None:
    stop = ending()
    gone = asyncio.Event()
    asked, turns = engine, []
    if split is not None and not split.together:
        asked = SleepingEngine(engine, settings.max_queue)
        sleeping = Sleeping(settings.training_share, time.monotonic())
        card = Card(settings.data_dir, "serving")
        turns = [asyncio.create_task(keep_turns(asked, engine, card, sleeping, gone))]
    places = settings.max_resident_adapters
    duties = [
        asyncio.create_task(duty)
        for duty in (
            answer(asked, settings, stop),
            keep_pins(asked, database, places, stop),
        )
    ]
    try:
        await asyncio.wait({*duties, *turns, engine.fault}, return_when=asyncio.FIRST_COMPLETED)
        if engine.fault.done():
            # Whoever waits is told, before the connections end.
            engine.loop.end()
    finally:
        stop.set()
        try:
            await asyncio.gather(*duties)
        finally:
            # Its memory is the card's again before its turn ends.
            await engine.end()
            gone.set()
            await asyncio.gather(*turns)
    if engine.fault.done():
        raise engine.fault.result()
