"""The API's composition root: the one place where its concrete parts are picked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from prometheus_client import CollectorRegistry, ProcessCollector

from adapters_store import AdapterStore
from service import openapi
from service.adapters.adapters import AdapterService
from service.adapters.adapters_controller import AdapterController
from service.adapters.aliases import AliasService
from service.adapters.aliases_controller import AliasController
from service.adapters.collecting import Collector
from service.adapters.controller import ModelController
from service.adapters.imports import ImportService
from service.adapters.imports_controller import ImportController
from service.adapters.merges import MergeService
from service.adapters.merges_controller import MergeController
from service.adapters.override_controller import OverrideController
from service.adapters.overriding import Overrides
from service.adapters.service import ModelService
from service.adapters.storing import adapter_store
from service.base.description import BaseDescription, describe
from service.base.wanted import sharing
from service.database import Database
from service.datasets.controller import FileController
from service.datasets.service import FileService
from service.datasets.uploads import UploadService
from service.datasets.uploads_controller import UploadController
from service.erasure.controller import ErasableTenantController, ErasureController
from service.erasure.service import ErasureService
from service.health import HealthController, Monitor, metrics_route
from service.http.crowd import Crowd
from service.http.edge import Edge
from service.http.errors import exception_handlers
from service.http.in_flight import InFlight
from service.http.metrics import RequestMetrics
from service.http.requests import JsonRequest
from service.http.tenant_labels import TenantLabels
from service.jobs.controller import JobController
from service.jobs.plan_controller import PlanController
from service.jobs.planning import PlanService
from service.jobs.service import JobService
from service.rendering.renderer import Renderer
from service.runtime.client import RemoteEngine
from service.secrets import load_or_make
from service.serving.admission import at_once
from service.serving.controller import ChatController, CompletionController
from service.serving.engine import Engine
from service.serving.generate_controller import GenerateController
from service.serving.import_gate import ImportGate
from service.serving.metrics import GenerationMetrics
from service.serving.prefetching import Prefetcher
from service.serving.residency_controller import ResidencyController
from service.serving.residents import ResidencyService, served
from service.serving.service import GenerationService
from service.settings import Settings
from service.snapshot import Snapshot
from service.tenants.allowances import Limiter
from service.tenants.audit import Audit
from service.tenants.audit_controller import AuditController, OwnAuditController
from service.tenants.auditing import AuditService
from service.tenants.auth import (
    Authentication,
    provide_allowance,
    provide_principal,
    provide_tenant_id,
)
from service.tenants.idempotency import Answers, Idempotency, replay
from service.tenants.key_watch import KeyWatch
from service.tenants.limits import from_setting
from service.tenants.own_controller import OwnKeyController, OwnLimitsController
from service.tenants.quotas import Quotas
from service.tenants.service import TenantService
from service.tenants.usage import UsageService
from service.tenants.usage_controller import TenantUsageController, UsageController
from service.tenants.usage_meter import UsageMeter
from service.webhooks.controller import WebhookController
from service.webhooks.courier import Courier
from service.webhooks.sender import Sender
from service.webhooks.service import WebhookService

MAX_JSON_BYTES = 10_000_000
CONTROLLERS = [
    AdapterController,
    OverrideController,
    AliasController,
    AuditController,
    ChatController,
    CompletionController,
    ErasableTenantController,
    ErasureController,
    FileController,
    GenerateController,
    HealthController,
    ImportController,
    JobController,
    MergeController,
    ModelController,
    OwnAuditController,
    OwnKeyController,
    OwnLimitsController,
    PlanController,
    ResidencyController,
    TenantUsageController,
    UploadController,
    UsageController,
    WebhookController,
]


def create_app(
    settings: Settings,
    *,
    base: BaseDescription | None = None,
    engine: Engine | None = None,
    store: AdapterStore | None = None,
    database: Database | None = None,
    limiter: Limiter | None = None,
    alone: bool = True,
) -> Litestar:
    """Build the API. Parts not given are made from the settings, and closed at shutdown.

    Unless it has the data folder `alone`, it leaves what it finds there to the others.

    Raises BaseModelError when the settings name no usable base, and SettingsError for a wrong
    location of the adapter store.
    """
    closing: list[Database | Engine | Prefetcher] = []
    if database is None:
        closing.append(database := Database(settings.sqlalchemy_url))
    if engine is None:
        closing.append(engine := RemoteEngine(settings.generation_socket))
    store = store or adapter_store(settings)
    base = base or describe(settings.base_model, settings.base_name)
    base.check()
    renderer = Renderer(base)
    registry, labels = CollectorRegistry(), TenantLabels(settings.metrics_tenants)
    prefetch = Prefetcher(engine, registry)
    closing.insert(0, prefetch)
    services = _services(settings, database, engine, store, renderer, registry, labels, prefetch)
    services["limiter"] = limiter or Limiter(database)
    ProcessCollector(registry=registry)
    app = Litestar(
        route_handlers=[
            *CONTROLLERS,
            metrics_route(
                registry,
                Snapshot(database, engine, settings.data_dir),
                public=settings.metrics_public,
            ),
        ],
        dependencies={
            "allowance": Provide(provide_allowance),
            "principal": Provide(provide_principal),
            "tenant_id": Provide(provide_tenant_id),
            **{name: _given(service) for name, service in services.items()},
            "monitor": _given(Monitor(database, engine, store)),
        },
        exception_handlers=exception_handlers,
        lifespan=[_lifespan(services, base, settings, closing, alone=alone)],
        # Litestar's logging of faults is left out: ours names no path and prints no locals.
        logging_config=None,
        middleware=[
            _authentication(services, settings),
            DefineMiddleware(Audit, database=database),
            DefineMiddleware(Idempotency, answers=services["answers"]),
        ],
        # Once the guards have passed: what was answered before is for who may ask.
        before_request=replay,
        request_class=JsonRequest,
        openapi_config=openapi.config(),
        request_max_body_size=MAX_JSON_BYTES,
    )
    # Litestar's own middleware runs after routing, and would miss every 404 and 405.
    crowd = Crowd(app.asgi_handler, settings.max_requests)
    app.asgi_handler = Edge(crowd, RequestMetrics(registry, labels))
    return app


def _services(
    settings: Settings,
    database: Database,
    engine: Engine,
    store: AdapterStore,
    renderer: Renderer,
    registry: CollectorRegistry,
    labels: TenantLabels,
    prefetch: Prefetcher,
) -> dict[str, Any]:
    """Make what handlers ask for by name."""
    root = settings.data_dir.resolve()
    models = ModelService(database, store, renderer.base)
    collector = Collector(database, store, models.remover)
    secret = load_or_make(root, "secret", settings.secret)
    private = settings.webhooks_private
    in_flight = InFlight()
    quotas = Quotas(from_setting(settings.tenant_limits))
    files = FileService(database, root, renderer, settings.max_file_bytes, quotas)
    meter = UsageMeter(database)
    jobs = JobService(
        database,
        renderer.base,
        models,
        quotas,
        quantization=settings.quantization,
        base_model=settings.base_model,
        max_rank=settings.max_lora_rank,
    )
    return {
        "answers": Answers(database),
        "audits": AuditService(database),
        "adapters": AdapterService(
            database, store, renderer.base, served=partial(served, engine), prefetch=prefetch
        ),
        "aliases": AliasService(database, prefetch),
        "collector": collector,
        "erasures": ErasureService(database, store, in_flight, root),
        "files": files,
        "generation": GenerationService(
            engine,
            models,
            renderer,
            meter,
            settings.max_batch,
            metrics=GenerationMetrics(registry, labels),
        ),
        "imports": ImportService(
            database,
            store,
            renderer.base,
            files.folder,
            ImportGate(engine, renderer).examine,
            settings.max_import_bytes,
            quotas,
        ),
        "jobs": jobs,
        "key_watch": KeyWatch(database, in_flight),
        "merges": MergeService(database, store, renderer.base, quotas),
        "meter": meter,
        "models": models,
        "plans": PlanService(
            jobs,
            files.folder,
            renderer,
            partial(sharing, settings, renderer.base.context_length, at_once(settings.max_batch)),
        ),
        "overrides": Overrides(database, renderer.base),
        "residents": ResidencyService(
            database,
            engine,
            store,
            renderer.base,
            places=settings.max_resident_adapters,
            prefetch=prefetch,
            quotas=quotas,
        ),
        "retention": collector.retention,
        "tenants": TenantService(
            database,
            admin_key=load_or_make(root, "admin_key", settings.admin_key),
            secret=secret,
            quotas=quotas,
        ),
        "uploads": UploadService(database, files),
        "courier": Courier(database, Sender(private=private), secret, registry),
        "webhooks": WebhookService(database, secret, private=private),
        "usage": UsageService(database),
    }


def _authentication(services: dict[str, Any], settings: Settings) -> DefineMiddleware:
    return DefineMiddleware(
        Authentication,
        authenticator=services["tenants"],
        in_flight=services["erasures"].in_flight,
        limiter=services["limiter"],
        metrics_public=settings.metrics_public,
    )


def _lifespan(
    services: dict[str, Any],
    base: BaseDescription,
    settings: Settings,
    closing: list[Database | Engine | Prefetcher],
    *,
    alone: bool,
) -> Any:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        # The first answer's fingerprint needs it, and of a large base it takes a while.
        hashing = asyncio.create_task(asyncio.to_thread(getattr, base, "digest"))
        cleaning = asyncio.create_task(services["imports"].clean())
        try:
            if alone:
                await services["files"].clean()
            await services["uploads"].clean()
            async with services["meter"].running(), _going_on(services, settings):
                yield
        finally:
            await asyncio.gather(hashing, cleaning, return_exceptions=True)
            for part in closing:
                await part.close()

    return lifespan


@asynccontextmanager
async def _going_on(services: dict[str, Any], settings: Settings) -> AsyncIterator[None]:
    """Do beside the requests what nobody waits for."""
    names = ("answers", "courier", "erasures", "key_watch", "limiter")
    always = [*(services[name] for name in names), services["tenants"].last_used]
    tasks = [asyncio.create_task(part.run()) for part in always]
    if settings.collect_seconds:
        tasks.append(asyncio.create_task(services["collector"].run(settings.collect_seconds)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services["models"].remover.close()
        await services["jobs"].hub.close()


def _given(part: Any) -> Provide:
    async def provide() -> Any:
        return part

    return Provide(provide)
