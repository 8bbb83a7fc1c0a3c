"""The soak: jobs of many tenants, while every process is killed at random and the database crashes.

`python -m tests.e2e.soak` runs the long one. First each data set is trained undisturbed: what the
others' results are held to.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from tests.e2e.fleet import Caller, Fleet, Member
from tests.e2e.records import Records, records
from tests.e2e.server import wait_for, write_rows
from tests.postgres import Postgres

TOLERANCE = 1e-3
DATA_SETS = 2
LEASE = "5"
"""Seconds after which a killed runtime's jobs are another's: nobody here tells of its death."""
ENDED = {"succeeded", "failed", "cancelled"}


class Plan(msgspec.Struct, frozen=True):
    """How much of what; everything random is drawn from `seed`."""

    jobs: int
    tenants: int
    kills: int
    crashes: int
    seed: int = 0
    pause_seconds: float = 1.0
    """Between two kills, on average."""


SHORT = Plan(jobs=8, tenants=4, kills=8, crashes=1)
LONG = Plan(jobs=40, tenants=8, kills=60, crashes=2, pause_seconds=4.0)


class Report(msgspec.Struct, frozen=True):
    """What came of it. `faults` holds what was promised and is not so."""

    plan: Plan
    seconds: float
    killed: dict[str, int]
    statuses: dict[str, int]
    attempts: int
    deliveries: int
    faults: list[str]


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, and refuses the first of each job's: it must come again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Delivery)
        self.came: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/told"

    def take(self, event_id: str, job: str) -> bool:
        self.came.append((job, event_id))
        return [named for named, _ in self.came].count(job) > 1


class _Delivery(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        taken = self.server.take(self.headers["webhook-id"], body["data"]["id"])
        self.send_response(204 if taken else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Job(msgspec.Struct, frozen=True):
    """A job that was accepted."""

    id: str
    tenant: str
    data_set: int


def soak(plan: Plan, folder: Path) -> Report:
    """Run the plan in a folder."""
    began, draw = time.monotonic(), random.Random(plan.seed)
    with (
        Postgres() as database,
        Fleet(folder, database, LOREHOUSE_LEASE_SECONDS=LEASE) as fleet,
        Receiver() as receiver,
    ):
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        undisturbed = _undisturbed(fleet, folder)
        tenants = {f"tenant-{n}": fleet.tenant(f"tenant-{n}") for n in range(plan.tenants)}
        for caller in tenants.values():
            caller.ask("POST", "/v1/webhooks", json={"url": receiver.url})
        fleet.tend()
        jobs: list[Job] = []
        submitting = threading.Thread(target=_submit, args=(plan, folder, tenants, jobs))
        submitting.start()
        killed = _disturb(plan, fleet, draw)
        submitting.join()
        for job in jobs:
            ended(tenants[job.tenant], job.id)
        wait_for(lambda: {job for job, _ in receiver.came} >= {j.id for j in jobs}, "webhooks")
        found = records(database)
        faults = [
            *_each_job_once(found, jobs, len(jobs) == plan.jobs),
            *_as_undisturbed(found, jobs, undisturbed),
            *_events(found, tenants, jobs),
            *_usage(found),
            *_webhooks(receiver.came),
        ]
        receiver.shutdown()
    mine = [found.jobs[job.id] for job in jobs]
    return Report(
        plan=plan,
        seconds=round(time.monotonic() - began, 1),
        killed=dict(killed),
        statuses=dict(Counter(row["status"] for row in mine)),
        attempts=sum(row["lease_token"] for row in mine),
        deliveries=len(receiver.came),
        faults=faults,
    )


def _undisturbed(fleet: Fleet, folder: Path) -> dict[int, str]:
    """Train each data set while nothing happens; the jobs, by their data sets."""
    caller = fleet.tenant("calm")
    jobs = {n: create(caller, rows_of(folder, n), n, f"calm-{n}") for n in range(DATA_SETS)}
    for job in jobs.values():
        assert ended(caller, job) == "succeeded"
    return jobs


def _submit(plan: Plan, folder: Path, tenants: dict[str, Caller], jobs: list[Job]) -> None:
    for number in range(plan.jobs):
        tenant = f"tenant-{number % plan.tenants}"
        data_set = number // plan.tenants % DATA_SETS
        path = rows_of(folder, data_set)
        made = create(tenants[tenant], path, data_set, f"soak-{number}")
        jobs.append(Job(made, tenant, data_set))


def _disturb(plan: Plan, fleet: Fleet, draw: random.Random) -> Counter[str]:
    """Kill one after the other; count the kills by name."""
    crashes = {plan.kills * (n + 1) // (plan.crashes + 1) for n in range(plan.crashes)}
    killed: Counter[str] = Counter()
    for number in range(plan.kills):
        time.sleep(draw.expovariate(1 / plan.pause_seconds))
        victim = wait_for(lambda: _living(fleet, draw), "anybody who lives")
        victim.kill()
        killed[victim.name] += 1
        if number in crashes:
            fleet.restart_database()
            killed["database"] += 1
    return killed


def _living(fleet: Fleet, draw: random.Random) -> Member | None:
    member = draw.choice(fleet.members)
    return None if member.ended else member


def rows_of(folder: Path, data_set: int) -> Path:
    path = folder / f"rows-{data_set}.jsonl"
    if not path.exists():
        write_rows(path, [(f"What is {n}?", f"It is {n + data_set}") for n in range(48)])
    return path


def create(caller: Caller, path: Path, data_set: int, name: str) -> str:
    """Upload and begin; asked again, neither is done twice."""
    form = {"files": {"file": (path.name, path.read_bytes())}, "data": {"purpose": "fine-tune"}}
    file = caller.ask("POST", "/v1/files", headers={"idempotency-key": f"{name}-file"}, **form)
    wanted = {
        "model": "lorehouse-tiny",
        "training_file": file["id"],
        "suffix": name,
        "seed": data_set,
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2}, "lora": {"rank": 4}},
        },
    }
    headers = {"idempotency-key": f"{name}-job"}
    made = caller.ask("POST", "/v1/fine_tuning/jobs", json=wanted, headers=headers)
    job: str = made["id"]
    return job


def ended(caller: Caller, job: str) -> str:
    def probe() -> str | None:
        status: str = caller.ask("GET", f"/v1/fine_tuning/jobs/{job}")["status"]
        return status if status in ENDED else None

    return wait_for(probe, f"the end of {job}", 600)


def _each_job_once(found: Records, jobs: Sequence[Job], all_of_them: bool) -> list[str]:
    faults = [] if all_of_them else [f"only {len(jobs)} jobs were accepted"]
    for job in jobs:
        row, made = found.jobs[job.id], found.revisions.get(job.id, [])
        if row["status"] != "succeeded":
            faults.append(f"{job.id} {row['status']}: {row['error_code']} {row['error_message']}")
        elif len(made) != 1:
            faults.append(f"{job.id} has {len(made)} revisions")
    return faults


def _as_undisturbed(found: Records, jobs: Sequence[Job], undisturbed: dict[int, str]) -> list[str]:
    faults = []
    for job in jobs:
        wanted = found.losses[undisturbed[job.data_set]]
        loss = found.losses.get(job.id)
        if loss is not None and abs(loss - wanted) > TOLERANCE:
            faults.append(f"{job.id} has a held-out loss of {loss}, undisturbed it is {wanted}")
    return faults


def _events(found: Records, tenants: dict[str, Caller], jobs: Sequence[Job]) -> list[str]:
    """Steps and ends are told once, the same by either API, in the order of their rows."""
    faults = []
    for job in jobs:
        rows = found.events[job.id]
        told = [row["message"] for row in rows if not _may_recur(row["message"])]
        doubled = {message for message in told if told.count(message) > 1}
        if doubled - {"Fine-tuning job started"}:
            faults.append(f"{job.id} was told twice: {sorted(doubled)}")
        path = f"/v1/fine_tuning/jobs/{job.id}/events?limit=100"
        shown = [tenants[job.tenant].at(n, path)["data"] for n in range(2)]
        newest = [row["id"] for row in reversed(rows)][:100]
        if any([event["id"] for event in data] != newest for data in shown):
            faults.append(f"{job.id}: the APIs tell its events differently")
    return faults


def _may_recur(message: str) -> bool:
    """Tell whether it is told as often as it happens: interruptions, and room made for others."""
    return "nterrupt" in message or "made room" in message


def _usage(found: Records) -> list[str]:
    return [
        f"{tenant} trained {trained} tokens, {found.accounted.get(tenant, 0)} are accounted"
        for tenant, trained in found.trained.items()
        if found.accounted.get(tenant, 0) != trained
    ]


def _webhooks(came: Sequence[tuple[str, str]]) -> list[str]:
    ids: dict[str, set[str]] = {}
    for job, event in came:
        ids.setdefault(job, set()).add(event)
    return [
        f"{job} was told under {len(names)} ids" for job, names in ids.items() if len(names) > 1
    ]


def main() -> int:
    """Run the long soak and print its report; exit with 1 if anything promised is not so."""
    parser = argparse.ArgumentParser(description="Kill everything at random, and count.")
    for field in msgspec.structs.fields(Plan):
        kind = float if field.type is float else int
        default = getattr(LONG, field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=default)
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="lorehouse-soak-") as folder:
        report = soak(plan, Path(folder))
    print(msgspec.json.format(msgspec.json.encode(report)).decode())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
