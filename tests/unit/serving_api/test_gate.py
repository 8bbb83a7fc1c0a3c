"""The publish gate asks the engine: what it takes for a fault of the revision, and what not."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters_store import FilesystemAdapterStore, RevisionRef
from service.base.probes import HeldOut, Measured, Probe, Probes
from service.errors import BadRequest, EngineUnavailable
from service.runtime.gatekeeping import Gatekeeper
from service.serving.gate import Rules, examine
from tests.builders import a_peft_folder, an_origin
from tests.fakes.engine import FakeEngine

PROBES = Probes([Probe([5, 6, 7, 8]), Probe([9, 10, 11])])


class Busy(FakeEngine):
    """Is too busy so many times."""

    def __init__(self, store: FilesystemAdapterStore, times: int) -> None:
        super().__init__(store)
        self.times = times

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        self.times -= 1
        if self.times >= 0:
            raise EngineUnavailable("too many requests are waiting")
        return await super().score(revision, prompts)


@pytest.fixture
def store(tmp_path: Path) -> FilesystemAdapterStore:
    return FilesystemAdapterStore(tmp_path)


@pytest.fixture
def ref(store: FilesystemAdapterStore) -> RevisionRef:
    with store.stage() as staged:
        return store.publish("acme", "support", a_peft_folder(staged), an_origin()).ref


async def test_a_good_revision_passes(store: FilesystemAdapterStore, ref: RevisionRef) -> None:
    verdict = await examine(FakeEngine(store), ref, PROBES, Rules())
    assert (verdict.passed, verdict.reason) == (True, "")
    assert [(check.name, check.outcome) for check in verdict.checks] == [
        ("loads", "passed"),
        ("finite", "passed"),
        ("changes_base", "passed"),
        ("agrees_with_trainer", "skipped"),
        ("held_out_loss", "skipped"),
    ]


async def test_what_the_engine_cannot_load_is_rejected_with_its_reason(
    store: FilesystemAdapterStore, ref: RevisionRef
) -> None:
    weights = store.open(ref).path / "adapter_model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    verdict = await examine(FakeEngine(store), ref, PROBES, Rules())
    assert [(check.name, check.outcome) for check in verdict.checks] == [("loads", "failed")]
    assert verdict.reason.startswith("loads: the revision cannot be loaded: ")


async def test_probes_that_cannot_be_scored_are_no_fault_of_the_revisions(
    store: FilesystemAdapterStore, ref: RevisionRef
) -> None:
    for wrong in (Probes([]), Probes([Probe([5])])):
        with pytest.raises(BadRequest):
            await examine(FakeEngine(store), ref, wrong, Rules())


async def test_a_busy_engine_is_waited_for(store: FilesystemAdapterStore, ref: RevisionRef) -> None:
    keeper = Gatekeeper(Busy(store, 2), Rules(), delays=[0, 0])
    assert (await keeper.examine(ref, PROBES)).passed
    with pytest.raises(EngineUnavailable):
        await Gatekeeper(Busy(store, 3), Rules(), delays=[0, 0]).examine(ref, PROBES)


async def test_nothing_passes_where_there_is_no_engine(
    store: FilesystemAdapterStore, ref: RevisionRef
) -> None:
    engine = FakeEngine(store)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await Gatekeeper(engine, Rules(), delays=[1000]).examine(ref, PROBES)


class Noting(FakeEngine):
    """Tells what was scored."""

    def __init__(self, store: FilesystemAdapterStore) -> None:
        super().__init__(store)
        self.scored: list[RevisionRef | None] = []

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        self.scored.append(revision)
        return await super().score(revision, prompts)


async def test_the_base_is_scored_ahead_and_once(
    store: FilesystemAdapterStore, ref: RevisionRef
) -> None:
    engine = Noting(store)
    keeper = Gatekeeper(engine, Rules())
    keeper.foresee(PROBES)
    # As trainers hand them over: with what they made of the same tokens.
    scored = Probes([Probe(probe.tokens, [], []) for probe in PROBES.probes], blank=False)
    for _ in range(2):
        assert (await keeper.examine(ref, scored)).passed
    assert engine.scored == [None, ref, ref]


class Shifted(FakeEngine):
    """Likes each adapter better than the base by so much."""

    def __init__(self, store: FilesystemAdapterStore, by: float) -> None:
        super().__init__(store)
        self.by, self.scored = by, 0

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        base = await super().score(None, prompts)
        if revision is None:
            return base
        self.scored += len(prompts)
        return [[value + self.by for value in each] for each in base]


@pytest.mark.parametrize(("by", "passed", "seen"), [(1.0, True, 8), (-1.0, False, 32)])
async def test_no_more_is_scored_once_it_is_surely_not_worse(
    store: FilesystemAdapterStore, ref: RevisionRef, by: float, passed: bool, seen: int
) -> None:
    examples = [Measured([n, n + 1, n + 2], [1, 2]) for n in range(32)]
    engine = Shifted(store, by)
    verdict = await examine(engine, ref, Probes([], HeldOut(examples)), Rules())
    assert (verdict.passed, engine.scored) == (passed, seen)
    assert verdict.checks[-1].figures["examples"] == seen


async def test_what_could_not_be_scored_ahead_is_scored_when_it_is_due(
    store: FilesystemAdapterStore, ref: RevisionRef
) -> None:
    keeper = Gatekeeper(Busy(store, 1), Rules(), delays=[])
    keeper.foresee(PROBES)
    await asyncio.sleep(0)
    assert (await keeper.examine(ref, PROBES)).passed
