"""vLLM's own load generator, `vllm bench serve`, for any server of that API."""

import math
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer

import msgspec

from bench.running import ROOT

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


class Client:
    """Asks one server after another, in a process of its own."""

    def __init__(self, python: Path, folder: Path) -> None:
        """`python` is of an environment with vLLM in it; `folder` is for what is left behind."""
        self._result, self._log = folder / "result.json", folder / "client.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - vLLM
                [str(python), "-m", "bench.vllm_client"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def load(
        self, target: Target, models: Sequence[str], work: Work, *, in_order: bool = False
    ) -> Figures:
        """Ask the models, drawn at random from those given, of which one may be there often.

        `in_order` takes them as they come. Raises RuntimeError when a request failed.
        """
        arguments = _arguments(target, models, work)
        arguments += ["--lora-assignment", "round-robin"] if in_order else []
        arguments += ["--save-result", "--result-dir", str(self._result.parent)]
        self._run(target.key, [*arguments, "--result-filename", self._result.name])
        figures = msgspec.json.decode(self._result.read_bytes(), type=Figures)
        if figures.failed or figures.completed != work.prompts:
            raise RuntimeError(f"{figures}:\n{self._log.read_text()[-3000:]}")
        return figures

    def _run(self, key: str, arguments: Sequence[str]) -> None:
        sent, got = self._process.stdin, self._process.stdout
        assert sent is not None
        assert got is not None
        patience = Timer(_PATIENCE_SECONDS, self._process.kill)
        patience.start()
        try:
            # One that has ended has said why.
            with suppress(BrokenPipeError):
                sent.write(msgspec.json.encode([key, arguments]) + b"\n")
                sent.flush()
            if not got.readline():
                raise RuntimeError(f"the load ended:\n{self._log.read_text()[-6000:]}")
        finally:
            patience.cancel()


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
