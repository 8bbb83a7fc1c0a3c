"""Logs: JSON off a terminal, readable on one. Never prompts, completions, bodies or keys."""

import logging
import sys

import structlog
import structlog.tracebacks

from service.tracing import trace_id

_NOISY = (
    "accelerate", "aiosqlite", "alembic", "datasets", "httpx", "peft", "transformers", "trl",
    "uvicorn",
)  # fmt: skip
# The defaults, here and in the console renderer, print the local variables of every frame: prompts
# and keys among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logging(level: str) -> None:
    """Send structlog and the standard library's loggers to stderr, at `level` and above."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _in_its_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Libraries' chatter says nothing an operator needs, nor do remarks to their own developers.
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisier in ("bitsandbytes", "py.warnings"):
        logging.getLogger(noisier).setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


def _in_its_trace(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if (found := trace_id()) is not None:
        event["trace_id"] = found
    return event


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Make a logger. Events are dotted and in the past tense: `job.claimed`."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return bound
