"""Lorehouse and bare vLLM on one base with the same adapters."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from bench import bases
from bench.running import BASE, Service, answering, free_port, key_of
from bench.shelves import Filling, Shelf
from bench.vllm_load import Client, Figures, Target, Work
from bench.workload import RANK
from service.base.description import describe
from service.base.model_shape import shape_of

TENANT = "acme"
MEMORY_SHARE = "0.2"
"""Of a card, as far as vLLM asks: several servers are up at once, each with `KV_TOKENS`."""
KV_TOKENS = 81_920
"""In each server's cache: more than a bench has running."""


class Side:
    """A server that is up, and what its adapters are called there."""

    def __init__(self, client: Client, target: Target, models: list[str]) -> None:
        self._client, self.target, self.models = client, target, models

    def load(self, models: Sequence[str], work: Work, *, in_order: bool = False) -> Figures:
        """Have it asked for these models; see `Client.load`."""
        return self._client.load(self.target, models, work, in_order=in_order)


class Size(msgspec.Struct, frozen=True):
    """An argument's default, which `parsed` chooses by the preset."""

    small: Any
    large: Any

    def __str__(self) -> str:
        """Tell both, for `%(default)s` in an argument's help."""
        return f"{self.small}, or {self.large} on a GPU"


class House:
    """A base, and a data folder with adapters of one tenant in it."""

    def __init__(self, args: argparse.Namespace, adapters: int) -> None:
        """Publish so many random adapters. `args` are those of `add_arguments`."""
        self._args = args
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.base = bases.served(self.folder, args)
            self._settings = {
                "LOREHOUSE_BASE_MODEL": str(self.base),
                "LOREHOUSE_QUANTIZATION": "none",
                "LOREHOUSE_TORCH_THREADS": str(args.threads),
                "LOREHOUSE_LOG_LEVEL": "warning",
            }
            self._publish(adapters)
            self._client = Client(args.vllm_python, self.folder)
            stack.callback(self._client.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self._stack.close()

    def _publish(self, adapters: int) -> None:
        with Service(self.folder, "api", **self._settings) as service:
            self._key = key_of(service.tenant(TENANT))
            filling = Filling(self.folder / "data", self.base, "none")
            shelves = [Shelf(TENANT, f"adapter-{number}", 1) for number in range(adapters)]
            self._models = asyncio.run(filling.fill(shelves, RANK))
            self._files = filling.folders

    @contextmanager
    def lorehouse(self, slots: int, **settings: str) -> Iterator[Side]:
        """Run the service with places for so many adapters."""
        given = {
            "LOREHOUSE_ENGINE": self._args.engine,
            "LOREHOUSE_MAX_RESIDENT_ADAPTERS": str(slots),
            "LOREHOUSE_MAX_LORA_RANK": str(RANK),
            "LOREHOUSE_MAX_BATCH": str(self._args.sequences),
        }
        if self._args.large:
            given["LOREHOUSE_VLLM_MEMORY_SHARE"] = MEMORY_SHARE
            given["LOREHOUSE_KV_TOKENS"] = str(KV_TOKENS)
        with Service(self.folder, **self._settings, **given, **settings) as service:
            target = Target(url=service.url, key=self._key, base=BASE, tokenizer=self.base)
            yield Side(self._client, target, self._models)

    @contextmanager
    def vllm(
        self,
        slots: int,
        in_memory: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Side]:
        """Run vLLM's server with so many slots, and adapters kept in the host's memory.

        Without slots it serves the base alone.
        """
        port = free_port()
        names = [f"lora-{number}" for number in range(len(self._files))]
        command = [*self._base_command(port), *flags]
        if slots:
            command += ["--enable-lora", "--max-loras", str(slots), "--max-lora-rank", str(RANK)]
            command += ["--max-cpu-loras", str(max(slots, in_memory or slots)), "--lora-modules"]
            command += [f"{name}={path}" for name, path in zip(names, self._files, strict=True)]
        told = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", **(environment or {})}
        url, log = f"http://127.0.0.1:{port}", self.folder / f"vllm-{port}.log"
        with answering(command, f"{url}/health", log, grace=60, environment=told):
            target = Target(url=url, key="none", base=BASE, tokenizer=self.base)
            yield Side(self._client, target, names)

    def _base_command(self, port: int) -> list[str]:
        command = [str(self._args.vllm_python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.base), "--served-model-name", BASE, "--port", str(port)]
        command += ["--host", "127.0.0.1", "--max-model-len", "2048"]
        command += ["--max-num-seqs", str(self._args.sequences), "--generation-config", "vllm"]
        command += ["--disable-uvicorn-access-log"]
        if self._args.large:
            cache = KV_TOKENS * shape_of(describe(str(self.base)).config).kv_bytes(2)
            command += ["--gpu-memory-utilization", MEMORY_SHARE]
            command += ["--kv-cache-memory-bytes", str(cache), "--dtype", "bfloat16"]
            return command
        return [*command, "--dtype", "float32"]


@contextmanager
def together(*servers: AbstractContextManager[Side]) -> Iterator[list[Side]]:
    """Run several servers at once, and start them so: vLLM takes minutes."""
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(servers)) as pool:
            sides = list(pool.map(stack.enter_context, servers))
        yield sides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every bench of two servers takes."""
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument(
        "--engine",
        choices=["resident", "vllm"],
        default=Size("resident", "vllm"),
        help="%(default)s",
    )
    parser.add_argument(
        "--vllm-python",
        type=Path,
        default=Path(sys.executable),
        help="of an environment with vLLM in it, if that is another one",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", type=Path, help="keep the h200 preset's base here")
    parser.add_argument(
        "--sequences", type=int, default=Size(16, 256), help="at once in an engine; %(default)s"
    )
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Fill in what the preset says."""
    args = parser.parse_args()
    args.large = args.preset == "h200" and not args.small
    for name, given in [*vars(args).items()]:
        if isinstance(given, Size):
            setattr(args, name, given.large if args.large else given.small)
    return args
