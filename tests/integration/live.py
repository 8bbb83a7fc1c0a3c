"""The app behind a real server on a free port, for what only a socket shows."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from litestar import Litestar

PATIENCE_SECONDS = 20


@contextmanager
def serving(app: Litestar) -> Iterator[str]:
    """Serve from a thread; gives the server's URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)


def key_of(url: str, admin_key: str, tenant: str) -> str:
    """Make a tenant with a key."""
    headers = {"authorization": f"Bearer {admin_key}"}
    with httpx.Client(base_url=f"{url}/v1/admin", headers=headers) as admin:
        admin.post("/tenants", json={"id": tenant}).raise_for_status()
        made = admin.post(f"/tenants/{tenant}/keys", json={"name": "tests"}).raise_for_status()
    key: str = made.json()["key"]
    return key


def eventually(true: Callable[[], object]) -> None:
    """Wait until it holds, or fail."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
