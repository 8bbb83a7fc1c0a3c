"""From a trainer's adapter folder to a revision: files first, rows in the caller's transaction."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import Origin, RevisionRef
from service.adapters.aliases_repository import AliasRepository
from service.adapters.origins import library_versions, origin_on
from service.adapters.repository import RevisionRepository
from service.adapters.weights import WeightedTarget
from service.base.probes import Probes
from service.database.models import JobRow
from service.datasets.repository import FileRepository
from service.rendering.examples import Example, is_chat
from service.runtime.training_parts import Parts
from service.serving.gate import Verdict
from service.serving.prefetching import prefetch
from service.training.spec import TrainingSpec

Metrics = dict[str, float | None]


class Publisher:
    """Publishes the adapters of one job.

    Files without rows are nobody's: whoever tries again publishes the same revision again.
    """

    def __init__(self, parts: Parts, job: JobRow, origin: Origin) -> None:
        self._parts = parts
        self._job = job
        self._origin = origin
        self._sizes: dict[RevisionRef, int] = {}
        self._refs: dict[int, RevisionRef] = {}
        """By step."""

    def publish(self, adapter: Path, step: int, metrics: Metrics) -> RevisionRef:
        """Put the files into the store, as a revision. Raises InvalidAdapter."""
        origin = msgspec.structs.replace(self._origin, step=step, metrics=metrics)
        job = self._job
        made = self._parts.store.publish(job.tenant_id, job.adapter, adapter, origin)
        self._sizes[made.ref], self._refs[step] = made.bytes, made.ref
        return made.ref

    async def published(self, step: int) -> tuple[RevisionRef, Verdict] | None:
        """Find what was published after a step, if it was examined and is there still.

        While removers are kept out, there are files where there is a row.
        """
        ref = self._refs.get(step)
        verdict = None if ref is None else await self._verdict(ref)
        return None if ref is None or verdict is None else (ref, verdict)

    def foresee(self, probes: Probes) -> None:
        """Prepare what examining a revision by these takes."""
        self._parts.gate.foresee(probes)

    async def examine(self, ref: RevisionRef, probes: Probes) -> Verdict:
        """Have a revision judged by the publish gate; by this job, once and for all.

        Raises EngineUnavailable.
        """
        return await self._verdict(ref) or await self._parts.gate.examine(ref, probes)

    async def record(
        self, session: AsyncSession, ref: RevisionRef, verdict: Verdict, step: int | None = None
    ) -> str:
        """Make a good revision callable once the transaction commits; return its name."""
        return await RevisionRepository(session).record(
            *_place(ref),
            base_name=self._parts.base.name,
            format=self._origin.format,
            job_id=self._job.id,
            step=step,
            gate=verdict.report(),
            size=self._sizes[ref],
        )

    async def reject(
        self, session: AsyncSession, ref: RevisionRef, verdict: Verdict, step: int | None = None
    ) -> None:
        """Note a revision that the gate rejected, once the transaction commits."""
        await RevisionRepository(session).reject(
            *_place(ref),
            format=self._origin.format,
            job_id=self._job.id,
            step=step,
            gate=verdict.report(),
            size=self._sizes[ref],
        )

    async def move_alias(self, session: AsyncSession, digest: str) -> str | None:
        """Make the alias that the job asks for name the revision alone; return its name."""
        job, alias = self._job, self._job.publish_alias
        if alias is None:
            return None
        aliases = AliasRepository(session)
        await aliases.lock(job.tenant_id, job.adapter)
        targets = [WeightedTarget(digest, weight=1)]
        await aliases.add(
            job.tenant_id, job.adapter, alias, targets, key_id=None, reason=f"job {job.id}"
        )
        return f"{job.adapter}@{alias}"

    async def prefetch(self, ref: RevisionRef) -> None:
        """Have the revision loaded if an alias names it from now on: it will be called."""
        if self._job.publish_alias is not None:
            await prefetch(self._parts.engine, ref)

    async def _verdict(self, ref: RevisionRef) -> Verdict | None:
        async with self._parts.database.read() as session:
            row = await RevisionRepository(session).row(ref.tenant, ref.adapter, ref.digest)
        if row is None or row.gate is None or row.job_id != self._job.id:
            return None
        return msgspec.convert(row.gate, Verdict)


def _place(ref: RevisionRef) -> tuple[str, str, str]:
    return ref.tenant, ref.adapter, ref.digest


def origin(parts: Parts, job: JobRow, examples: Sequence[Example], digests: list[str]) -> Origin:
    """Describe where a job's revisions come from. Reads the whole base once."""
    parent = msgspec.convert(job.spec, TrainingSpec).base_adapter
    return msgspec.structs.replace(
        origin_on(
            parts.base,
            "chat" if is_chat(examples[0]) else "raw",
            quantization=parts.quantization,
            compute_dtype=parts.compute_dtype,
        ),
        job_id=job.id,
        dataset_digests=digests,
        spec=job.spec,
        parents=[] if parent is None else [parent.digest],
        library_versions=library_versions(),
    )


async def dataset_digests(parts: Parts, job: JobRow) -> list[str]:
    """Look up the sha256 of the job's files."""
    wanted = [name for name in (job.training_file, job.validation_file) if name is not None]
    async with parts.database.read() as session:
        files = FileRepository(session)
        return [(await files.get_even_expired(job.tenant_id, name)).sha256 for name in wanted]
