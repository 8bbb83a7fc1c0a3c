"""Every metric that dashboard and alert rules name is exported, with the labels that they use."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from service.http.tenant_labels import TenantLabels
from service.runtime.metrics import RuntimeMetrics
from service.serving.metrics import GenerationMetrics
from service.training.trainer import StepDone
from tests.integration.test_methods_api import SUPERVISED, posted, uploaded

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMED = re.compile(r"(lorehouse_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"by \(([^)]*)\)")


def expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    yield from (rule["expr"] for rule in group["rules"])


def used() -> Iterator[tuple[str, set[str]]]:
    """Each metric that is named, with the labels that are asked of it."""
    for expression in expressions():
        grouped = {label.strip() for by in GROUPED.findall(expression) for label in by.split(",")}
        for name, matchers in NAMED.findall(expression):
            matched = {re.split(r"[=!~]", part)[0] for part in matchers.split(",") if part}
            yield name, grouped | matched


def a_runtimes() -> Iterator[Metric]:
    """What a runtime exports once it has done something of everything."""
    registry = CollectorRegistry()
    metrics = RuntimeMetrics(registry, TenantLabels())
    metrics.turned("generation", 0.1)
    metrics.trained("acme", 0).step(
        StepDone(
            step=1,
            total_steps=1,
            train_loss=1.0,
            train_mean_token_accuracy=None,
            learning_rate=0.1,
            tokens=7,
            tokens_per_second=1.0,
        )
    )
    metrics.ended.labels("failed").inc()
    metrics.given_back.labels("lease_lost").inc()
    return iter(list(registry.collect()))


def a_full_queues() -> Iterator[Metric]:
    """What the API exports once its engine was full; it takes an overload to see it there."""
    registry = CollectorRegistry()
    metrics = GenerationMetrics(registry, TenantLabels())
    metrics.turned_away("acme")
    metrics.admitted("acme", 0.1)
    return iter(list(registry.collect()))


@pytest.mark.sqlite("the database has no part in it")
async def test_what_is_watched_is_exported(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    file = await uploaded(acme, *[SUPERVISED] * 10)
    assert (await posted(acme, file)).status_code == 200
    chat = {"model": "lorehouse-tiny", "messages": [{"role": "user", "content": "hi"}]}
    assert (await acme.post("/v1/chat/completions", json=chat)).status_code == 200
    apis = text_string_to_metric_families((await admin.get("/metrics")).text)
    exported = {
        sample.name: set(sample.labels)
        for family in (*apis, *a_runtimes(), *a_full_queues())
        for sample in family.samples
    }
    asked = list(used())
    assert len(asked) > 30
    for name, labels in asked:
        assert name in exported, name
        assert labels <= exported[name] | {"le"}, (name, labels)
