"""The generation runtime: the process that owns the resident base and answers requests."""

import asyncio
import os
import signal
import sys

from adapters_store import FilesystemAdapterStore
from service.base.description import BaseModelError, describe
from service.rendering.renderer import Renderer
from service.runtime.server import EngineServer
from service.serving.engine import Engine
from service.settings import Settings
from service.telemetry import configure_logging, logger

GRACE_SECONDS = 8.0
"""Less than the supervisor's, which kills after its own."""

_log = logger(__name__)


def run(settings: Settings) -> None:
    """Load the base, then listen until SIGTERM or SIGINT. The socket appears when it can answer.

    Exits with 1 after a fault of ours: the supervisor starts a fresh process.
    """
    configure_logging(settings.log_level)
    try:
        asyncio.run(_serve(_engine(settings), settings))
    except BaseModelError as fault:
        _log.error("base.not_loaded", reason=str(fault))
        sys.exit(1)
    except Exception:  # noqa: BLE001  logged, and told by the exit code
        _log.exception("generation.died")
        sys.exit(1)


def threads(settings: Settings) -> int:
    """CPU threads for a runtime: half the cores, so that the other one has some too."""
    return settings.torch_threads or max(1, (os.cpu_count() or 1) // 2)


def _engine(settings: Settings) -> Engine:
    # Only this process pays for torch.
    from service.base.loading import load_base
    from service.serving.resident_engine import ResidentEngine

    base = describe(settings.base_model, settings.base_name)
    loaded = load_base(base, settings.quantization, threads(settings))
    return ResidentEngine(
        loaded,
        FilesystemAdapterStore(settings.data_dir / "adapters"),
        Renderer(base),
        max_resident=settings.max_resident_adapters,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
    )


async def _serve(engine: Engine, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = EngineServer(engine, settings.generation_socket)
    await server.start()
    _log.info("generation.started", socket=str(settings.generation_socket))
    await stop.wait()
    await server.stop(GRACE_SECONDS)
    await engine.close()
    _log.info("generation.stopped")
