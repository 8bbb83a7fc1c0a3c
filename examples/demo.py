"""`make demo`: two tenants, from nothing to the first answers, before and after training.

Starts a server of its own in `.demo/`, and then does only what any client could: the admin calls
with httpx, everything else with the unmodified `openai` SDK. Exits non-zero when an adapter did not
learn its task, or when another one answers it too.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import openai
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
TENANTS = ("acme", "globex")
BASE = "lorehouse-tiny"
OWN_AT_LEAST, OTHERS_AT_MOST = 0.90, 0.30
PARALLEL = 32
START_TIMEOUT_SECONDS = 180

console = Console()


@dataclass
class Tenant:
    """What the demo knows of one tenant."""

    name: str
    client: openai.OpenAI
    key: str
    job: str = ""
    model: str = ""
    seconds: float = 0.0
    heldout: list[dict[str, str]] = field(default_factory=list)


def main() -> int:
    """Run the journey; 0 when every threshold holds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", action="store_true", help="leave the server running")
    keep = arguments.parse_args().keep
    began = time.monotonic()
    with server() as url:
        tenants = [make_tenant(url, name) for name in TENANTS]
        with progress_bars() as bars:
            train(tenants, bars)
            scores = evaluate(tenants, bars)
        show(tenants, scores, time.monotonic() - began)
        show_next_steps(url, tenants[0], keep)
        if keep:
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return 0 if verdict(scores) else 1


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start `lorehouse serve` on a free port with fresh data, and stop it at the end."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    port = free_port()
    settings = {
        "LOREHOUSE_DATA_DIR": str(DEMO / "data"),
        "LOREHOUSE_PORT": str(port),
    }
    log = (DEMO / "server.log").open("wb")
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def free_port() -> int:
    """Ask the system for a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the server and its base model are up; say what the log says if they fail."""
    began = time.monotonic()
    with console.status("Starting the server and loading the base model ..."):
        while time.monotonic() - began < START_TIMEOUT_SECONDS:
            if process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready").status_code == httpx.codes.OK:
                    console.print(f"Server ready at {url} in {time.monotonic() - began:.1f} s")
                    return
            time.sleep(0.2)
    console.print((DEMO / "server.log").read_text()[-4000:])
    raise SystemExit("the server did not start; its log is .demo/server.log")


def make_tenant(url: str, name: str) -> Tenant:
    """Create a tenant and a key for it, as the operator does."""
    admin_key = (DEMO / "data" / "admin_key").read_text().strip()
    admin = httpx.Client(base_url=url, headers={"authorization": f"Bearer {admin_key}"})
    admin.post("/v1/admin/tenants", json={"id": name}).raise_for_status()
    made = admin.post(f"/v1/admin/tenants/{name}/keys", json={"name": "demo"}).raise_for_status()
    key: str = made.json()["key"]
    tenant = Tenant(name, openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=2), key)
    for line in (ROOT / "examples" / name / "heldout.jsonl").read_bytes().splitlines():
        user, assistant = msgspec.json.decode(line)["messages"]
        tenant.heldout.append({"ask": user["content"], "expect": assistant["content"]})
    return tenant


def progress_bars() -> Progress:
    """Bars for training and evaluation."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def train(tenants: list[Tenant], bars: Progress) -> None:
    """Upload both tenants' files, start both jobs, and follow their events to the end."""
    for tenant in tenants:
        with (ROOT / "examples" / tenant.name / "train.jsonl").open("rb") as rows:
            file = tenant.client.files.create(file=rows, purpose="fine-tune")
        job = tenant.client.fine_tuning.jobs.create(
            model=BASE, training_file=file.id, suffix="tickets"
        )
        tenant.job = job.id
    tasks = [bars.add_task(f"train {t.name}/tickets", total=None, note="queued") for t in tenants]
    with ThreadPoolExecutor() as pool:
        list(pool.map(follow, tenants, tasks, [bars] * len(tenants)))


def follow(tenant: Tenant, task: TaskID, bars: Progress) -> None:
    """Show one job's metrics as its event stream brings them."""
    url = f"{tenant.client.base_url}fine_tuning/jobs/{tenant.job}/events?stream=true"
    headers = {"authorization": f"Bearer {tenant.key}"}
    with httpx.stream("GET", url, headers=headers, timeout=300) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                note_event(msgspec.json.decode(line.removeprefix("data: ")), task, bars)
    job = tenant.client.fine_tuning.jobs.retrieve(tenant.job)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise SystemExit(f"{tenant.name}'s job ended {job.status}: {job.error}")
    tenant.model = job.fine_tuned_model
    events = tenant.client.fine_tuning.jobs.list_events(job.id, limit=100)
    started = next(e.created_at for e in events if e.message == "Fine-tuning job started")
    tenant.seconds = (job.finished_at or 0) - started


def note_event(event: dict[str, object], task: TaskID, bars: Progress) -> None:
    """Move the bar by one event."""
    figures = event.get("data")
    if event.get("type") == "metrics" and isinstance(figures, dict) and "train_loss" in figures:
        note = f"loss {figures['train_loss']:.3f}  {figures['tokens_per_second']:,.0f} tok/s"
        bars.update(task, completed=figures["step"], total=figures["total_steps"], note=note)


def evaluate(tenants: list[Tenant], bars: Progress) -> dict[tuple[str, str], float]:
    """Ask every held-out question of the base and of both adapters; give the exact-match rates.

    An adapter belongs to its tenant, so the other tenant's is asked with the other tenant's key.
    """
    scores: dict[tuple[str, str], float] = {}
    for tenant in tenants:
        asked = [("base", tenant, BASE)] + [(t.name, t, t.model) for t in tenants]
        for label, caller, model in asked:
            task = bars.add_task(
                f"ask {label} {tenant.name}'s task", total=len(tenant.heldout), note=""
            )
            began = time.monotonic()
            right = ask_all(caller.client, model, tenant.heldout, task, bars)
            rate = len(tenant.heldout) / (time.monotonic() - began)
            bars.update(task, note=f"{rate:.0f} answers/s")
            scores[tenant.name, label] = right / len(tenant.heldout)
    return scores


def ask_all(
    client: openai.OpenAI, model: str, rows: list[dict[str, str]], task: TaskID, bars: Progress
) -> int:
    """Count the rows whose answer equals the expected one."""

    def ask(row: dict[str, str]) -> bool:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": row["ask"]}],
            temperature=0,
            max_tokens=32,
        )
        if not (answer.model == model):
            raise SystemExit(f"asked {model}, {answer.model} answered")
        bars.advance(task)
        return (answer.choices[0].message.content or "").strip() == row["expect"]

    with ThreadPoolExecutor(PARALLEL) as pool:
        return sum(pool.map(ask, rows))


def show(tenants: list[Tenant], scores: dict[tuple[str, str], float], seconds: float) -> None:
    """Print the table of exact matches."""
    table = Table(title="Exact match on 100 held-out rows")
    for heading in ("task", "base", "own adapter", "other tenant's adapter", "training"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for tenant in tenants:
        other = next(t.name for t in tenants if t is not tenant)
        cells = [scores[tenant.name, who] for who in ("base", tenant.name, other)]
        table.add_row(tenant.name, *(f"{c:.0%}" for c in cells), f"{tenant.seconds:.0f} s")
    console.print(table)
    console.print(f"Everything together took {seconds:.0f} s.")


def verdict(scores: dict[tuple[str, str], float]) -> bool:
    """Check the thresholds, naming each one that was missed."""
    good = True
    for (task, who), score in scores.items():
        if who == task and score < OWN_AT_LEAST:
            console.print(f"[red]{task}'s own adapter: {score:.0%} is under {OWN_AT_LEAST:.0%}")
            good = False
        if who != task and score > OTHERS_AT_MOST:
            console.print(f"[red]{who} on {task}'s task: {score:.0%} is over {OTHERS_AT_MOST:.0%}")
            good = False
    return good


def show_next_steps(url: str, tenant: Tenant, keep: bool) -> None:
    """Print what to type next."""
    question = msgspec.json.encode(tenant.heldout[0]["ask"]).decode().replace("'", "'\\''")
    start = (
        f"The server goes on at {url} (Ctrl-C stops it):"
        if keep
        else "Start the server again with the same data, and ask in another terminal:\n\n"
        "  LOREHOUSE_DATA_DIR=.demo/data make serve"
    )
    base = url if keep else "http://127.0.0.1:8000"
    lines = f"""
{start}

  curl {base}/v1/tenants/{tenant.name}/generate \\
    -H 'authorization: Bearer {tenant.key}' -H 'content-type: application/json' \\
    -d '{{"prompt": {question}, "temperature": 0}}'

  curl {base}/v1/models -H 'authorization: Bearer {tenant.key}'
  curl {base}/v1/fine_tuning/jobs -H 'authorization: Bearer {tenant.key}'

The API's description is at {base}/schema; the server's log of this run is .demo/server.log.
"""
    console.print(lines, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
