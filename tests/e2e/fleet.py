"""Several API processes and runtimes on one PostgreSQL, each of which may be killed."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.e2e.server import ADMIN_KEY, ROOT, wait_for
from tests.integration.live import free_port
from tests.postgres import Postgres

DATABASE = "fleet"
RETRIED = {429, 500, 502, 503}
SETTINGS = {
    "LOREHOUSE_ADMIN_KEY": ADMIN_KEY,
    "LOREHOUSE_CHECKPOINT_STEPS": "1",
    "LOREHOUSE_LEASE_SECONDS": "60",
    "LOREHOUSE_TORCH_THREADS": "1",
    "LOREHOUSE_WEBHOOKS_PRIVATE": "true",
}


class Member:
    """One process of the fleet."""

    def __init__(self, name: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self.log = Path(environment["LOREHOUSE_DATA_DIR"]).parent / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; also in the place of one that has ended."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", *self._command],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """kill -9."""
        process = self.process  # another one may take its place at once
        assert process is not None
        process.kill()
        process.wait(60)

    def stop(self) -> int:
        """End it as an operator would, and give the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    @property
    def ended(self) -> bool:
        """Whether it has died by itself."""
        return self.process is not None and self.process.poll() is not None


class Fleet:
    """Two APIs, a runtime that also generates, and two that only train; nobody supervises."""

    def __init__(self, folder: Path, database: Postgres, **settings: str) -> None:
        self.folder, self.database, self.settings = folder, database, settings
        self._ending = threading.Event()
        self._tending: threading.Thread | None = None
        ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.apis = [
            self._member(f"api-{n}", ("api",), LOREHOUSE_PORT=str(port))
            for n, port in enumerate(ports)
        ]
        roles = ("resident", "training", "training")
        self.runtimes = [
            self._member(f"runtime-{n}", ("runtime", role)) for n, role in enumerate(roles)
        ]

    @property
    def members(self) -> list[Member]:
        """All processes but the database's."""
        return [*self.apis, *self.runtimes]

    def __enter__(self) -> Self:
        self.database.execute(f"CREATE DATABASE {DATABASE}")
        for member in self.members:
            member.start()
            if member is self.apis[-1]:
                # They start at once on an empty database; runtimes need its tables.
                for number in range(len(self.apis)):
                    wait_for(lambda n=number: self.lives(n), f"API {number}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        if self._tending is not None:
            self._tending.join()
        for member in self.members:
            if member.process is not None and not member.ended:
                member.kill()
            if kind is not None and member.log.exists():
                print(f"--- {member.name}\n{member.log.read_text()[-5000:]}")

    def tend(self) -> None:
        """From now on start anew whoever ends, as whatever supervises a service does."""
        self._tending = threading.Thread(target=self._tend)
        self._tending.start()

    def _tend(self) -> None:
        while not self._ending.wait(0.1):
            for member in self.members:
                if member.ended:
                    member.start()

    def lives(self, number: int) -> bool:
        """Whether an API answers."""
        assert not self.apis[number].ended, self.apis[number].log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.urls[number]}/health/live", timeout=5).is_success
        return False

    def restart_database(self, between: Callable[[], None] = lambda: None) -> None:
        """Let the database crash, and start it again."""
        self.database.stop()
        between()
        self.database.start()

    def caller(self, key: str = ADMIN_KEY) -> "Caller":
        """Give a client that goes to every API in turn."""
        return Caller(self.urls, key)

    def tenant(self, name: str) -> "Caller":
        """Make a tenant and a client of its."""
        admin = self.caller()
        admin.ask("POST", "/v1/admin/tenants", json={"id": name})
        made = admin.ask("POST", f"/v1/admin/tenants/{name}/keys", json={"name": "fleet"})
        return self.caller(made["key"])

    def _member(self, name: str, command: tuple[str, ...], **settings: str) -> Member:
        others = {k: v for k, v in os.environ.items() if not k.startswith("LOREHOUSE_")}
        own = {
            "LOREHOUSE_DATA_DIR": str(self.folder / "data"),
            "LOREHOUSE_DATABASE_URL": self.database.url(DATABASE),
        }
        return Member(name, command, others | SETTINGS | own | self.settings | settings)


class Caller:
    """Asks the APIs in turn, and again where the answer is lost or temporary, as SDKs do."""

    def __init__(self, urls: list[str], key: str) -> None:
        self._urls = urls
        self._headers = {"authorization": f"Bearer {key}"}
        self._turn = 0
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, seconds: float = 120, **more: Any) -> Any:
        """Give the answer's JSON; fail on one that is not a success."""
        answer = wait_for(lambda: self._once(method, path, more), f"{method} {path}", seconds)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def at(self, number: int, path: str) -> Any:
        """GET from one API."""
        answer = httpx.get(self._urls[number] + path, headers=self._headers, timeout=30)
        return answer.raise_for_status().json()

    def _once(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response | None:
        with self._lock:
            self._turn += 1
            url = self._urls[self._turn % len(self._urls)]
        headers = self._headers | more.get("headers", {})
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.request(method, url + path, timeout=30, **{**more, "headers": headers})
            return None if answer.status_code in RETRIED else answer
        return None
