"""What needs vLLM, in an environment of its own, where that was made."""

import os
import subprocess
from importlib.util import find_spec

import pytest

from tests.e2e.server import ROOT

ENVIRONMENT = ROOT / ".venv-vllm"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed: they run anyway"),
    pytest.mark.skipif(
        not (ENVIRONMENT / ".ready").exists(),
        reason="there is no .venv-vllm with vLLM's build for CPUs: make vllm-env",
    ),
]


def test_the_tests_that_need_vllm_pass_where_it_is() -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [ENVIRONMENT / "bin" / "python", "-m", "pytest", "-q", "-m", "vllm"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests/contracts", "tests/e2e"],
        cwd=ROOT,
        env=others | {"VIRTUAL_ENV": str(ENVIRONMENT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout.splitlines()[-1]
