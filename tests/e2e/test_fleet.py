"""Two API processes and three runtimes on one PostgreSQL: one service, whoever is asked."""

from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.e2e.records import records
from tests.e2e.server import wait_for
from tests.e2e.soak import SHORT, create, ended, rows_of, soak
from tests.postgres import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql, pytest.mark.timeout(600)]


def test_two_apis_and_three_runtimes_train_each_job_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    with Fleet(tmp_path, postgres) as fleet:
        tenants = {name: fleet.tenant(name) for name in ("acme", "globex", "initech")}
        jobs = {
            create(caller, rows_of(tmp_path, n % 2), n % 2, f"{name}-{n}"): caller
            for name, caller in tenants.items()
            for n in range(2)
        }
        for job, caller in jobs.items():
            assert ended(caller, job) == "succeeded"
        found = records(postgres)
        for job, caller in jobs.items():
            assert len(found.revisions[job]) == 1
            assert found.jobs[job]["lease_token"] == 1, "claimed once"
            rows = [row["id"] for row in reversed(found.events[job])]
            for number in range(2):
                path = f"/v1/fine_tuning/jobs/{job}/events?limit=100"
                assert [event["id"] for event in caller.at(number, path)["data"]] == rows

        def answers() -> bool:
            answer = tenants["acme"].ask("GET", "/health/ready")
            return bool(answer["status"] == "ready")

        wait_for(answers, "an engine")
        model = tenants["acme"].ask("GET", "/v1/models")["data"][-1]["id"]
        chat = {"model": model, "messages": [{"role": "user", "content": "What is 7?"}]}
        for _ in range(2):
            told = tenants["acme"].ask("POST", "/v1/chat/completions", json=chat)
            assert told["model"] == model
        assert [member.stop() for member in fleet.members] == [0] * 5


def test_the_soak_in_short(tmp_path: Path) -> None:
    report = soak(SHORT, tmp_path)
    assert report.faults == [], report
    assert sum(n for name, n in report.killed.items() if name != "database") == SHORT.kills
    assert report.statuses == {"succeeded": SHORT.jobs}
