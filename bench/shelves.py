"""Many revisions in a running service's database and store, as so many jobs would leave them."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from peft import LoraConfig
from safetensors.numpy import save_file

from adapters_store import AdapterStore, FilesystemAdapterStore, Revision
from bench.running import BASE
from bench.workload import ATTENTION
from service.adapters.origins import origin_on
from service.adapters.repository import RevisionRepository
from service.base.description import describe
from service.base.lora_rules import PREFIX
from service.database import Database
from service.settings import BUNDLED_BASE, Settings

ROWS_AT_ONCE, PUBLISHERS = 200, 8


class Shelf(msgspec.Struct, frozen=True):
    """An adapter of a tenant's and how many revisions it has."""

    tenant: str
    adapter: str
    revisions: int


class Filling:
    """Publishes random adapters of a base, small ones where nobody will ask them."""

    def __init__(
        self, data_dir: Path, base: Path = BUNDLED_BASE, quantization: str = "nf4"
    ) -> None:
        self._settings = Settings(data_dir=data_dir, base_name=BASE)
        self._base = describe(str(base), BASE)
        held = {"quantization": quantization, "compute_dtype": "float32"}
        self._origin = replace(origin_on(self._base, "chat", **held), job_id="ftjob-bench")
        self._seeds = 0
        self.folders: list[Path] = []
        """Where the files of each revision are, in order."""
        self.store: AdapterStore = FilesystemAdapterStore(data_dir / "adapters")

    async def fill(self, shelves: Sequence[Shelf], rank: int = 1) -> list[str]:
        """Publish and record; give the models' names."""
        began, names = time.monotonic(), list[str]()
        database = Database(self._settings.sqlalchemy_url)
        for shelf in shelves:
            for first in range(0, shelf.revisions, ROWS_AT_ONCE):
                count = min(ROWS_AT_ONCE, shelf.revisions - first)
                made = self._publish(shelf, count, rank)
                self.folders += [revision.path for revision in made]
                digests = [revision.ref.digest for revision in made]
                names += await self._record(database, shelf, digests)
        await database.close()
        print(
            f"{len(names)} revisions of rank {rank} in {time.monotonic() - began:.0f} s", flush=True
        )
        return names

    def _publish(self, shelf: Shelf, count: int, rank: int) -> list[Revision]:
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            return list(
                pool.map(lambda seed: self._publish_one(shelf, rank, seed), self._new(count))
            )

    def _new(self, count: int) -> range:
        self._seeds += count
        return range(self._seeds - count, self._seeds)

    def _publish_one(self, shelf: Shelf, rank: int, seed: int) -> Revision:
        with self.store.stage() as folder:
            targets = ATTENTION if rank > 1 else ATTENTION[:1]
            _config(rank, targets).save_pretrained(folder)
            save_file(self._weights(rank, targets, seed), folder / "adapter_model.safetensors")
            return self.store.publish(shelf.tenant, shelf.adapter, folder, self._origin)

    async def _record(self, database: Database, shelf: Shelf, digests: Sequence[str]) -> list[str]:
        async with database.write() as session:
            revisions = RevisionRepository(session)
            return [
                await revisions.record(
                    shelf.tenant,
                    shelf.adapter,
                    digest,
                    base_name=BASE,
                    format="chat",
                    job_id="ftjob-bench",
                    size=0,
                )
                for digest in digests
            ]

    def _weights(self, rank: int, targets: Sequence[str], seed: int) -> dict[str, np.ndarray]:
        random, weights = np.random.default_rng(seed), {}
        for path, (into, out) in self._base.linear_shapes.items():
            if path.rsplit(".", 1)[-1] in targets:
                for side, shape in {"A": (rank, into), "B": (out, rank)}.items():
                    drawn = random.standard_normal(shape, dtype=np.float32)
                    weights[f"{PREFIX}{path}.lora_{side}.weight"] = drawn * np.float32(0.02)
        return weights


def _config(rank: int, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE,
    )
