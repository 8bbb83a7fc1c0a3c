"""Environments of the clients that the end-to-end tests drive: made once, from locked versions."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.server import ROOT

PYTHON = ROOT / "tests" / "clients" / "python"
NODE = ROOT / "tests" / "clients" / "node"
OLDEST_NODE = 20
_OFFLINE = re.compile(
    r".*(?:Temporary failure|Name or service not known|Network is unreachable|Connection refused"
    r"|connection broken|timed out|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN).*"
)
_QUIET = {
    # litellm would fetch its list of prices, langchain-openai would report what it did.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


def python_environment() -> Path:
    """Install the Python clients if need be, and give their interpreter."""
    folder = PYTHON / ".venv"
    lock = PYTHON / "requirements.txt"
    if _is_new(folder, lock):
        shutil.rmtree(folder, ignore_errors=True)
        _install(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "pip"), "install", "--retries", "1", "--no-deps")
        _install(*pip, "--no-compile", "-r", str(lock))
        _made_of(folder, lock)
    return folder / "bin" / "python"


def node_environment() -> str:
    """Install the Node clients if need be, and give Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no node, or no npm, on this machine")
    version = subprocess.check_output([node, "--version"], text=True)
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"the SDK needs Node {OLDEST_NODE}, and this is {version.strip()}")
    folder, lock = NODE / "node_modules", NODE / "package-lock.json"
    if _is_new(folder, lock):
        _install(npm, "ci", "--no-audit", "--no-fund", "--fetch-retries", "1", cwd=NODE)
        _made_of(folder, lock)
    return node


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Make what a client's process is to see: none of this project's code, no other account."""
    ours = ("OPENAI_", "LOREHOUSE_", "PYTHON", "PYTEST_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return others | _QUIET | dict(settings)


def run(command: Sequence[str], settings: Mapping[str, str], cwd: Path) -> str:
    """Run a client to its end, and give what it printed; fail with that if it fails."""
    with started(command, settings, cwd) as client:
        told, _ = client.communicate(timeout=240)
    assert client.returncode == 0, told
    return told


@contextmanager
def started(
    command: Sequence[str], settings: Mapping[str, str], cwd: Path
) -> Iterator["subprocess.Popen[str]"]:
    """Start a client; what is left of it is killed."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def _install(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stdout + done.stderr
        if offline := _OFFLINE.search(told):
            pytest.skip(f"the clients cannot be fetched: {offline[0].strip()}")
        pytest.fail(told)


def _is_new(folder: Path, lock: Path) -> bool:
    stamp = folder / ".made-of"
    return not stamp.exists() or stamp.read_text() != _digest(lock)


def _made_of(folder: Path, lock: Path) -> None:
    (folder / ".made-of").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()
