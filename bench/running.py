"""The service itself, started in a folder of its own and driven over HTTP."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parent.parent
ADMIN_KEY = "bench-admin-key"
BASE = "bench-base"
START_SECONDS = 420


class Service:
    """`lorehouse serve`, or `api` alone, on a free port; it answers inside the `with`."""

    def __init__(
        self, folder: Path, command: str = "serve", *, module: str = "service", **settings: str
    ) -> None:
        self._log = folder / "server.log"
        self._module, self._command = module, command
        self._settings = {
            "LOREHOUSE_DATA_DIR": str(folder / "data"),
            "LOREHOUSE_PORT": str(free_port()),
            "LOREHOUSE_ADMIN_KEY": ADMIN_KEY,
            "LOREHOUSE_BASE_NAME": BASE,
        } | settings
        self.port = int(self._settings["LOREHOUSE_PORT"])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._process = self._start(self._module, self._command)
        try:
            # Without a runtime it never is ready for everything.
            self.wait("/health/ready" if self._command == "serve" else "/health/live")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if kind is not None:
            print(_last_words(self._log))

    @property
    def pid(self) -> int:
        """The API's process."""
        return self._process.pid

    def wait(self, path: str) -> None:
        """Return once it answers there. Raises RuntimeError."""
        try:
            wait_for(self.url + path, self._process)
        except RuntimeError as fault:
            raise RuntimeError(f"{fault}:\n{_last_words(self._log)}") from None

    @contextmanager
    def beside(self, module: str, command: str) -> Iterator[int]:
        """Run another process with the same settings; give its id."""
        process = self._start(module, command)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()

    def _start(self, module: str, command: str) -> "subprocess.Popen[bytes]":
        others = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", module, command],
                cwd=ROOT,
                env=others | self._settings,
                stdout=log,
                stderr=log,
            )

    def tenant(self, name: str) -> httpx.Client:
        """Make a tenant, and a client with a key of its."""
        admin = self._client(ADMIN_KEY)
        admin.post("/v1/admin/tenants", json={"id": name}).raise_for_status()
        made = admin.post(f"/v1/admin/tenants/{name}/keys", json={"name": "bench"})
        return self._client(made.raise_for_status().json()["key"])

    def _client(self, key: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def _stop(self) -> None:
        _end(self._process, 60)


def upload(client: httpx.Client, rows: Path) -> str:
    """Upload a fine-tuning file; give its id."""
    with rows.open("rb") as stream:
        sent = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": stream})
    return str(sent.raise_for_status().json()["id"])


def start_job(client: httpx.Client, file: str, **supervised: Any) -> str:
    """Create a supervised job; give its id."""
    method = {"type": "supervised", "supervised": supervised}
    body = {"model": BASE, "training_file": file, "suffix": "bench", "seed": 7, "method": method}
    made = client.post("/v1/fine_tuning/jobs", json=body)
    return str(made.raise_for_status().json()["id"])


@contextmanager
def answering(
    command: Sequence[str],
    url: str,
    log: Path,
    *,
    grace: float = 0,
    environment: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run another server, which answers at `url` inside the `with`.

    At the end it has so many seconds until it is killed. What it logged is printed after a fault.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - a peer that the bench names
            command, cwd=ROOT, env=os.environ | (environment or {}), stdout=out, stderr=out
        )
    try:
        wait_for(url, process)
        yield process
    except BaseException:
        print(_last_words(log))
        raise
    finally:
        _end(process, grace)


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Return once the process answers there; raise RuntimeError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"nothing answers at {url}")


def _end(process: "subprocess.Popen[bytes]", grace: float) -> None:
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log: Path) -> str:
    return log.read_text()[-8000:]


def key_of(client: httpx.Client) -> str:
    """Tell the key that a client sends."""
    return client.headers["authorization"].removeprefix("Bearer ")


def cpu_seconds(pid: int) -> float:
    """Tell the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
