"""One trace from a request to the engine's steps, across processes; and from a job to its end."""

import asyncio
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select

from service import tracing
from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import JobRow
from service.settings import Settings
from tests.conftest import ADMIN_KEY
from tests.integration.generating import BASE, CHAT, served
from tests.integration.live import free_port, key_of
from tests.integration.test_methods_api import SUPERVISED, posted, uploaded

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{SENDER}-01"}
SECRET = "the-quiet-heron"


class Collector:
    """A collector of OTLP over HTTP, on the loopback."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def spans(self) -> dict[str, Any]:
        """What came, by name."""
        return {
            span.name: span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    with collector.listening():
        yield collector


@asynccontextmanager
async def runtime(settings: Settings, collector: Collector, port: int) -> AsyncIterator[None]:
    """Run a real runtime that traces, and serves metrics; it has told all when this ends."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "LOREHOUSE_DATA_DIR": str(settings.data_dir),
        "LOREHOUSE_QUANTIZATION": "none",
        "LOREHOUSE_LOG_LEVEL": "warning",
        "LOREHOUSE_RUNTIME_METRICS_PORT": str(port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "runtime", "generation", env=environment
    )
    try:
        while not settings.generation_socket.exists():
            assert process.returncode is None, "the runtime did not start"
            await asyncio.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.torch
@pytest.mark.sqlite("the database has no part in it")
async def test_a_request_is_one_trace_from_the_api_to_the_steps_of_the_engine(
    settings: Settings,
    base: BaseDescription,
    database: Database,
    spans: InMemorySpanExporter,
    collector: Collector,
) -> None:
    app = create_app(settings, base=base, database=database)
    port = free_port()
    async with runtime(settings, collector, port), app.lifespan(), served(app) as url:
        key = await asyncio.to_thread(key_of, url, ADMIN_KEY, "acme")
        body = {"model": BASE, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {key}"} | TRACED
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            before = await turns(client, port)
            answer = (await client.post(CHAT, json=body)).raise_for_status().json()
            made = answer["usage"]["completion_tokens"]
            # The last token is answered before its turn is counted.
            async with asyncio.timeout(30):
                while await turns(client, port) < before + made:
                    pass
    (request,) = [span for span in spans.get_finished_spans() if span.name == f"POST {CHAT}"]
    assert hex_of(request) == (TRACE, SENDER)
    attributes = dict(request.attributes or {})
    assert attributes["http.route"] == CHAT
    assert attributes["lorehouse.tenant"] == "acme"
    engine = collector.spans()
    steps = ("engine.generate", "engine.admission", "engine.prefill", "engine.decode")
    assert {engine[name].trace_id.hex() for name in steps} == {TRACE}
    assert engine["engine.generate"].parent_span_id.hex() == f"{request.context.span_id:016x}"
    for name in steps[1:]:
        assert engine[name].parent_span_id == engine["engine.generate"].span_id
        assert engine[name].start_time_unix_nano <= engine[name].end_time_unix_nano
    (generated,) = engine["engine.decode"].attributes
    assert generated.value.int_value == answer["usage"]["completion_tokens"]
    ours = "".join(span.to_json() for span in spans.get_finished_spans())
    told = b"".join(collector.bodies) + ours.encode()
    assert SECRET.encode() not in told
    assert key.encode() not in told


async def turns(client: httpx.AsyncClient, port: int) -> float:
    """How many turns a runtime says that generation had on its base."""
    text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    name = re.escape('lorehouse_base_turn_seconds_count{kind="generation"}')
    return sum(map(float, re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)))


def hex_of(span: ReadableSpan) -> tuple[str, str]:
    """Its trace, and its parent."""
    assert span.context is not None
    assert span.parent is not None
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}"


async def test_a_job_keeps_the_trace_of_the_request_that_made_it(
    acme: httpx.AsyncClient, database: Database, spans: InMemorySpanExporter
) -> None:
    acme.headers.update(TRACED)
    made = await posted(acme, await uploaded(acme, *[SUPERVISED] * 10))
    assert made.status_code == 200, made.text
    (request,) = [s for s in spans.get_finished_spans() if s.name == "POST /v1/fine_tuning/jobs"]
    async with database.read() as session:
        kept = await session.scalar(select(JobRow.traceparent))
    assert request.context is not None
    assert kept == f"00-{TRACE}-{request.context.span_id:016x}-01"


@pytest.mark.sqlite("the database has no part in it")
@pytest.mark.parametrize(
    "given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 9000]
)
async def test_what_is_no_trace_context_begins_a_new_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, given: str
) -> None:
    assert (await client.get("/health/live", headers={"traceparent": given})).status_code == 200
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert span.name == "GET /health/live"


async def test_a_fault_is_marked_and_its_words_are_not_told(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError), tracing.span("work"):
        raise ValueError(SECRET)
    (span,) = spans.get_finished_spans()
    assert not span.status.is_ok
    assert SECRET not in span.to_json()


@pytest.mark.sqlite("the database has no part in it")
async def test_nothing_is_traced_unless_a_collector_is_named(client: httpx.AsyncClient) -> None:
    await client.get("/health/live", headers=TRACED)
    with tracing.span("work", parent=TRACED["traceparent"]) as span:
        assert not span.is_recording()
        assert tracing.traceparent() is None
        assert tracing.trace_id() is None
