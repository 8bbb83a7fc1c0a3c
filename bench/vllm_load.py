"""vLLM's own load generator, `vllm bench serve`, for any server of that API."""

import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

# The command `vllm` itself asks for the package's metadata, which builds for CPUs lack.
_RUN = (
    "from vllm.benchmarks.serve import add_cli_args, main; "
    "from vllm.utils.argparse_utils import FlexibleArgumentParser as Parser; "
    "parser = Parser(); add_cli_args(parser); main(parser.parse_args())"
)
_PATIENCE_SECONDS = 600


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What it found, in its words."""

    completed: int
    failed: int
    request_throughput: float
    """A second."""
    output_throughput: float
    """Tokens a second."""
    p50_ttft_ms: float
    p99_ttft_ms: float
    p50_itl_ms: float
    p99_itl_ms: float


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: random prompts of `given` tokens, answers of exactly `made` tokens."""

    prompts: int
    given: int
    made: int
    at_once: int | None = None
    rate: float = math.inf
    """Requests a second, at random times (Poisson); endless: as soon as there is a place."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whom it asks."""

    url: str
    key: str
    base: str
    """The base's name there."""
    tokenizer: Path


def load(
    python: Path, target: Target, models: Sequence[str], work: Work, *, in_order: bool = False
) -> Figures:
    """Ask the models, drawn at random from those given, of which one may be there often.

    `in_order` takes them as they come. Raises RuntimeError when a request failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [str(python), "-c", _RUN, *_arguments(target, models, work)]
        command += ["--lora-assignment", "round-robin"] if in_order else []
        command += ["--save-result", "--result-dir", folder, "--result-filename", result.name]
        ran = subprocess.run(  # noqa: S603 - vLLM
            command,
            env=os.environ | {"OPENAI_API_KEY": target.key},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        if not result.exists():
            raise RuntimeError(f"the load ended with {ran.returncode}:\n{ran.stderr[-6000:]}")
        figures = msgspec.json.decode(result.read_bytes(), type=Figures)
    if figures.failed or figures.completed != work.prompts:
        raise RuntimeError(f"{figures}:\n{ran.stdout[-3000:]}")
    return figures


def _arguments(target: Target, models: Sequence[str], work: Work) -> list[str]:
    options = {
        "--backend": "openai",
        "--base-url": target.url,
        "--endpoint": "/v1/completions",
        "--model": target.base,
        "--tokenizer": str(target.tokenizer),
        "--dataset-name": "random",
        "--random-input-len": str(work.given),
        "--random-output-len": str(work.made),
        "--num-prompts": str(work.prompts),
        "--request-rate": str(work.rate),
        "--percentile-metrics": "ttft,itl",
        "--metric-percentiles": "50,99",
        "--temperature": "0",
        "--seed": "7",
    }
    if work.at_once is not None:
        options["--max-concurrency"] = str(work.at_once)
    told = [part for option in options.items() for part in option]
    if models:
        told += ["--lora-modules", *models]
    return [*told, "--ignore-eos", "--disable-tqdm"]
