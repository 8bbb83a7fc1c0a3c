"""Traces, by OpenTelemetry: W3C trace context in and on, and spans to a collector.

Off, and without cost, unless OpenTelemetry's own variables name a collector. Names and attributes
of spans are of templates, ids and numbers: never of prompts, completions, keys or paths.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HEADER = "traceparent"
LONGEST = 55
"""Characters of a trace context, in the version of it that there is."""

NANO = 1_000_000_000

Attributes = Mapping[str, str | int | float | bool]

_w3c = TraceContextTextMapPropagator()
_tracer: Tracer | None = None
_provider: TracerProvider | None = None


def configure_tracing(process: str) -> None:
    """Send this process's spans to the collector that the environment names, if it names one.

    What else OpenTelemetry's variables say is kept to: headers, sampling, names.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    # Only who traces pays for these.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or f"lorehouse-{process}"
    provider = trace.TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_with(provider)


def trace_with(provider: TracerProvider | None) -> None:
    """Have spans made by this provider from now on; None: have none made."""
    global _provider, _tracer
    _provider = provider
    _tracer = None if provider is None else provider.get_tracer("lorehouse")


def end_tracing() -> None:
    """Send what was not sent yet; blocks for a few seconds at most."""
    if (shutdown := getattr(_provider, "shutdown", None)) is not None:
        shutdown()


@contextmanager
def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """Make a span of what is done within, a child of `parent` or of the one around it."""
    if _tracer is None:
        yield INVALID_SPAN
        return
    context = None if parent is None else _context(parent)
    # A fault's own words may hold anything: a span says only that there was one.
    with _tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException:
            failed(made)
            raise


def past(name: str, began: int, ended: int, attributes: Attributes | None = None) -> None:
    """Make a span, within the current one, of what is over; times are Unix nanoseconds."""
    if _tracer is not None:
        made = _tracer.start_span(name, attributes=attributes, start_time=began)
        made.end(ended)


def traceparent() -> str | None:
    """Give the current span as W3C trace context, to be handed on."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _w3c.inject(carrier)
    return carrier.get(HEADER)


def failed(made: Span) -> None:
    """Mark a span as gone wrong."""
    made.set_status(Status(StatusCode.ERROR))


def trace_id() -> str | None:
    """Give the current trace's id, in hex."""
    if _tracer is None:
        return None
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def _context(parent: str) -> Context:
    """Read W3C trace context; what is not is taken for none."""
    return _w3c.extract({HEADER: parent[:LONGEST]}, set_span_in_context(INVALID_SPAN))
