"""Resolve the extra `gpu` by its exact pins, from the index's metadata: nothing is installed.

    python -m tools.check_pins            # does it resolve, and is everything in it pinned?
    python -m tools.check_pins --write    # pin anew what the extra brings along

Once for the Python of the `Dockerfile`'s CUDA target and once for the oldest that is supported.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from service.doctor import machine as doctor

PINS, MORE = Path(doctor.PINS), Path(doctor.MORE_PINS)
PYTHONS = ("3.11", "3.12")
"""The CUDA image's last: an older one may leave out what that needs."""
PLATFORM = "x86_64-manylinux_2_28"
HEADER = """\
# What the extra `gpu` brings besides constraints.txt; both go together: -c constraints.txt -c this.
# Made and checked by `make check-pins`; see README, Commands.
"""


class Unresolvable(Exception):
    """The pins exclude each other; the message is the resolver's."""


def resolve(python: str, constraints: list[Path]) -> dict[str, str]:
    """Give the version of everything that the extra would install. Raises Unresolvable."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "gpu"]
    command += ["--quiet", "--no-header", "--no-annotate", "--no-cache"]
    command += ["--python-version", python, "--python-platform", PLATFORM]
    for file in constraints:
        command += ["--constraint", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Unresolvable(done.stderr.strip())
    return pins(done.stdout)


def pins(text: str) -> dict[str, str]:
    """Read `name==version` lines, by names as the index compares them."""
    found = doctor.PIN.findall(text)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def floating(resolved: dict[str, str], pinned: dict[str, str]) -> list[str]:
    """Name what would be installed in whatever version there is that day."""
    return sorted(name for name in resolved if name not in pinned)


def write() -> None:
    """Pin what constraints.txt does not, in versions that every Python takes."""
    held = pins(PINS.read_text())
    found: dict[str, str] = {}
    for python in PYTHONS:
        found |= resolve(python, [PINS])
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items()) if name not in held]
    MORE.write_text(HEADER + "".join(lines))


def check() -> bool:
    """Tell whether it resolves to what is pinned, and print what came of it."""
    pinned = pins(PINS.read_text()) | pins(MORE.read_text())
    well = True
    for python in PYTHONS:
        found = resolve(python, [PINS, MORE])
        loose = floating(found, pinned)
        well = well and not loose
        named = ", ".join(f"{name} {found[name]}" for name in ("vllm", "torch", "transformers"))
        print(f"Python {python}: {len(found)} packages, {named}; not pinned: {loose or 'none'}")
    return well


def main() -> int:
    """Run it; the exit code is 1 if it does not resolve, or if something is not pinned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="pin anew what the extra brings")
    try:
        if parser.parse_args().write:
            write()
        return 0 if check() else 1
    except Unresolvable as fault:
        print(fault, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
