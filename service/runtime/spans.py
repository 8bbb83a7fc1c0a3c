"""A generation's spans in the runtime: its way into the batch, and its steps in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from opentelemetry.trace import SpanKind

from service import tracing
from service.serving.engine import GenerationRequest, Piece


@contextmanager
def generating(request: GenerationRequest) -> Iterator["Stretches"]:
    """Mark the logs and make the spans of what is done for a request, in its sender's trace."""
    facts = {"lorehouse.tenant": request.tenant, "lorehouse.generation": request.id}
    facts["lorehouse.revision"] = request.revision.digest if request.revision else ""
    stretches = Stretches()
    marked = structlog.contextvars.bound_contextvars(tenant=request.tenant, generation=request.id)
    made = tracing.span("engine.generate", facts, parent=request.traceparent, kind=SpanKind.SERVER)
    with marked, made:
        try:
            yield stretches
        finally:
            stretches.tell(len(request.prompt))


class Stretches:
    """What the engine did for a request, one after the other, by the pieces as they came."""

    def __init__(self) -> None:
        self._began = time.time_ns()
        self._admitted = self._first = self._last = 0
        self._tokens: dict[int, int] = {}

    def heard(self, piece: Piece) -> None:
        """Note a piece."""
        self._last = time.time_ns()
        if not self._first:
            self._first = self._last
            self._admitted = self._began + round((piece.queued or 0) * tracing.NANO)
        self._tokens[piece.index] = piece.tokens

    def tell(self, prompt_tokens: int) -> None:
        """Make the spans: waiting, with the adapter's load; the prompt's steps; the tokens'."""
        if not self._first:
            tracing.past("engine.admission", self._began, time.time_ns())
            return
        tracing.past("engine.admission", self._began, self._admitted)
        read = {"lorehouse.tokens": prompt_tokens}
        tracing.past("engine.prefill", self._admitted, self._first, read)
        made = {"lorehouse.tokens": sum(self._tokens.values())}
        tracing.past("engine.decode", self._first, self._last, made)
