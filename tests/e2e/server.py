"""What the end-to-end tests start, ask and kill."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec
import openai
from openai.types.fine_tuning import FineTuningJob

from tests.integration.live import free_port

ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "e2e-admin-key"
T = TypeVar("T")


def wait_for(probe: Callable[[], T | None], what: str, seconds: float = 120) -> T:
    """Ask until the answer is true; fail naming what never came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds:.0f} s")


def write_rows(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """Write question-and-answer pairs as a fine-tuning file."""
    lines = [
        msgspec.json.encode(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
        for question, answer in pairs
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


class Server:
    """`lorehouse serve` in a folder of its own, on a free port."""

    def __init__(self, folder: Path, *, patience: float = 120, **settings: str) -> None:
        self.folder = folder
        self.patience = patience
        self.log = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "LOREHOUSE_DATA_DIR": str(folder / "data"),
            "LOREHOUSE_PORT": str(self.port),
            "LOREHOUSE_ADMIN_KEY": ADMIN_KEY,
            "LOREHOUSE_CHECKPOINT_STEPS": "5",
            "LOREHOUSE_TORCH_THREADS": "1",
        } | settings
        self.admin = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=60
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.admin.close()
        if kind is not None:
            print(self.log.read_text()[-20000:])

    def start(self, ready: bool = True) -> None:
        """Start the processes; by default return once the engine is there."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                cwd=ROOT,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if ready:
            wait_for(lambda: self.answers("/health/ready"), "readiness", self.patience)

    def run(self, *command: str) -> int:
        """Run another command of ours on the same folder, and give its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "service", *command],
            cwd=ROOT,
            env=self._environment(),
            check=False,
        )
        return done.returncode

    def _environment(self) -> dict[str, str]:
        others = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
        return others | self.settings

    def answers(self, path: str) -> bool:
        """Whether a GET of the path gives 200 now."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return self.admin.get(path).status_code == httpx.codes.OK
        return False

    def stop(self) -> int:
        """End it as an operator would, and give the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """kill -9 the API; the runtime goes with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def client(self, tenant: str, max_retries: int = 0) -> openai.OpenAI:
        """Make the tenant if need be, and an SDK client with a new key of its."""
        self.admin.post("/v1/admin/tenants", json={"id": tenant})
        made = self.admin.post(f"/v1/admin/tenants/{tenant}/keys", json={"name": "e2e"})
        key = made.raise_for_status().json()["key"]
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=max_retries)

    def runtime_pid(self) -> int:
        """Find the child process that trains and generates."""
        assert self.process is not None
        pattern = re.compile(r"service\0runtime\0resident\0")
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (folder / "cmdline").read_text()
                    parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if pattern.search(command) and int(parent) == self.process.pid:
                        return int(folder.name)
        raise AssertionError("no runtime")

    def kill_runtime(self) -> None:
        """kill -9 the runtime, and return when another one has taken its place."""
        old = self.runtime_pid()
        os.kill(old, signal.SIGKILL)

        def replaced() -> bool:
            with contextlib.suppress(AssertionError):
                return self.runtime_pid() != old
            return False

        wait_for(replaced, "a new runtime")


def ended(client: openai.OpenAI, job: str, seconds: float = 180) -> FineTuningJob:
    """Wait for a job's end."""

    def probe() -> FineTuningJob | None:
        now = client.fine_tuning.jobs.retrieve(job)
        return now if now.status in {"succeeded", "failed", "cancelled"} else None

    return wait_for(probe, f"the end of {job}", seconds)


def train(client: openai.OpenAI, rows: Path, suffix: str, **supervised: object) -> str:
    """Upload rows, train on them, and give the fine-tuned model's name."""
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    method = {"type": "supervised", "supervised": supervised}
    job = client.fine_tuning.jobs.create(
        model="lorehouse-tiny",
        training_file=file.id,
        suffix=suffix,
        seed=7,
        method=method,  # type: ignore[arg-type]
    )
    done = ended(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model
    return done.fine_tuned_model
