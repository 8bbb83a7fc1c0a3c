"""The runtime process: it owns one base, and trains and generates on it."""

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any, Literal

import uvloop
from prometheus_client import CollectorRegistry

from service.base.description import BaseModelError, describe
from service.database import Database
from service.errors import EngineUnavailable
from service.heap import settle
from service.http.tenant_labels import TenantLabels
from service.rendering.renderer import Renderer
from service.runtime import building, merging, training, vllm_process
from service.runtime.answering import answer
from service.runtime.card import Card
from service.runtime.card_split import CardTooSmall
from service.runtime.client import RemoteEngine
from service.runtime.metrics import RuntimeMetrics, serve_metrics
from service.runtime.pins import keep_pins
from service.runtime.residence import Residence, move_in, parts
from service.runtime.telling import keep_telling
from service.runtime.training_parts import Parts
from service.runtime.training_turns import keep_turns
from service.serving.engine import Engine
from service.serving.self_check import MixedUp
from service.settings import Settings
from service.telemetry import configure_logging, logger
from service.tracing import configure_tracing, end_tracing
from service.waiting import ending, pass_time

Role = Literal["resident", "training", "generation"]
"""What it does: both, or one of the two."""

VLLM_STARTS_SECONDS = 600.0
LOOK_SECONDS = 0.5

_log = logger(__name__)


def run(settings: Settings, role: Role, runtime_id: str | None = None) -> None:
    """Train queued jobs and answer requests until SIGTERM or SIGINT.

    The socket appears when it can answer; jobs under way at the end are given back, to be resumed.
    Exits with 1 after a fault of ours that leaves no more to do: the supervisor starts anew.
    """
    configure_logging(settings.log_level)
    configure_tracing("runtime")
    owner = runtime_id or f"{role}-{os.getpid()}-{secrets.token_hex(4)}"
    apart = settings.engine == "vllm" and role == "generation"
    try:
        uvloop.run(vllm_process.run(settings, owner) if apart else _run(settings, role, owner))
    except MixedUp as fault:
        _log.error("engine.refused", reason=str(fault))
        sys.exit(1)
    except CardTooSmall as fault:
        _log.error("card.too_small", reason=str(fault))
        sys.exit(1)
    except BaseModelError as fault:
        _log.error("base.not_loaded", reason=str(fault))
        sys.exit(1)
    except Exception:  # noqa: BLE001  logged, and told by the exit code
        _log.exception("runtime.died", runtime_id=owner)
        sys.exit(1)
    finally:
        end_tracing()


async def _run(settings: Settings, role: Role, owner: str) -> None:
    stop = ending()
    renderer = Renderer(describe(settings.base_model, settings.base_name))
    registry = CollectorRegistry()
    metrics = RuntimeMetrics(registry, TenantLabels(settings.metrics_tenants))
    serve_metrics(settings, registry)
    trains, generates = role != "generation", role != "training"
    if settings.engine == "vllm" and await asyncio.to_thread(building.on_a_card):
        await after_vllm(RemoteEngine(settings.generation_socket), stop)
    load = partial(move_in, trains=trains, generates=generates, turned=metrics.turned)
    residence = await asyncio.to_thread(load, settings, renderer)
    _log.info("runtime.ready", runtime_id=owner, role=role, **residence.facts)
    database = Database(settings.sqlalchemy_url)
    try:
        await _work(settings, owner, residence, database, renderer, metrics, stop)
    finally:
        await database.close()
    _log.info("runtime.stopped", runtime_id=owner)


async def _work(
    settings: Settings,
    owner: str,
    residence: Residence,
    database: Database,
    renderer: Renderer,
    metrics: RuntimeMetrics,
    stop: asyncio.Event,
) -> None:
    duties: list[Coroutine[Any, Any, None]] = []
    working: Parts | None = None
    if (batch := residence.training) is not None:
        metrics.row_tokens.set_function(lambda: batch.row_tokens)
        working = parts(settings, owner, residence, database, renderer, metrics)
        duties.append(training.work(working, stop))
        duties.append(keep_telling(working, residence.hardware, stop))
        duties.append(merging.work(_merging(working), stop))
    if residence.in_turn is not None:
        card = Card(settings.data_dir, "training")
        duties.append(keep_turns(residence.in_turn, card, residence.make_room, stop))
    if residence.answers:
        duties.append(answer(residence.engine, settings, stop))
        places = settings.max_resident_adapters
        duties.append(keep_pins(residence.engine, database, places, stop))
    settle()
    residence.conductor.start(residence.generation, residence.training)
    try:
        await _until(stop, duties, residence)
    finally:
        await asyncio.to_thread(residence.move_out)
        if working is not None:
            # Where another process answers, it is a connection to that one.
            await working.engine.close()


async def after_vllm(engine: Engine, stop: asyncio.Event) -> None:
    """Wait until vLLM answers: what others allocate while it starts, it takes for its own.

    One that does not start, or is elsewhere, is waited for no longer than it could take.
    """
    patience = asyncio.get_running_loop().time() + VLLM_STARTS_SECONDS
    try:
        while asyncio.get_running_loop().time() < patience and not stop.is_set():
            with contextlib.suppress(EngineUnavailable):
                await engine.status()
                return
            await pass_time(stop, LOOK_SECONDS)
    finally:
        await engine.close()


def _merging(working: Parts) -> merging.MergeParts:
    return merging.MergeParts(
        owner=working.owner,
        lease_seconds=working.lease_seconds,
        database=working.database,
        store=working.store,
        command=[sys.executable, "-m", "service", "merge"],
    )


async def _until(
    stop: asyncio.Event, duties: list[Coroutine[Any, Any, None]], residence: Residence
) -> None:
    """Let the duties go on until `stop`, or until one of them or the base's thread fails."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    ended = asyncio.wrap_future(residence.conductor.ended)
    try:
        done, _ = await asyncio.wait({*tasks, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended in done:
            # Nobody gives turns any more: whoever waits for one is told.
            residence.give_up()
    finally:
        stop.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if ended.done():
        ended.result()
    for result in results:
        if isinstance(result, BaseException):
            raise result
