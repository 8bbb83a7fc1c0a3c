"""Many threads share one batch: each waits for its own task, and hears of its own faults."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from service.runtime.conductor import Conductor  # noqa: E402
from service.runtime.shares import Shares  # noqa: E402
from service.runtime.stalls import Stalls  # noqa: E402
from service.training.batch.loop import BatchLoop  # noqa: E402
from service.training.spec import LoraSpec  # noqa: E402
from service.training.trainer import StepDone, TrainingError, TrainingEvent  # noqa: E402
from tests.unit.training.batch.crowds import crowd_trainer  # noqa: E402
from tests.unit.training.tasks import Log, a_task, sha256, train  # noqa: E402

pytestmark = pytest.mark.torch

SLOTS = 8


@pytest.fixture
def loop() -> Iterator[BatchLoop]:
    conductor = Conductor(Shares(0.5), Stalls(1.0), 1000)
    loop = BatchLoop(crowd_trainer(torch.float32, tokens_at_once=1000), conductor.wake)
    conductor.start(None, loop)
    yield loop
    conductor.stop()
    loop.close()


def test_more_tasks_than_slots_all_end(loop: BatchLoop, tmp_path: Path) -> None:
    def go(number: int) -> int:
        return train(loop, a_task(tmp_path / str(number), seed=number)).steps

    with ThreadPoolExecutor(SLOTS + 4) as threads:
        assert list(threads.map(go, range(SLOTS + 4))) == [8] * (SLOTS + 4)


def test_tasks_of_several_threads_train_at_the_same_time(loop: BatchLoop, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def go(name: str) -> int:
        log = Log()

        def report(event: TrainingEvent) -> None:
            log.report(event)
            if isinstance(event, StepDone) and event.step == 1:
                both.wait()

        return loop.train(a_task(tmp_path / name), report, log.should_stop).steps

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(go, "ab")) == [8, 8]


def test_a_task_that_cannot_join_is_told_so_and_the_loop_goes_on(
    loop: BatchLoop, tmp_path: Path
) -> None:
    strange = LoraSpec(target_modules=("strange_proj",))
    with pytest.raises(TrainingError, match="strange_proj"):
        train(loop, a_task(tmp_path / "strange", lora=strange))
    first = train(loop, a_task(tmp_path / "first"))
    assert sha256(first.adapter) == sha256(train(loop, a_task(tmp_path / "second")).adapter)


def test_closing_ends_what_is_left(tmp_path: Path) -> None:
    conductor = Conductor(Shares(0.5), Stalls(1.0), 1000)
    loop = BatchLoop(crowd_trainer(torch.float32, tokens_at_once=1000), conductor.wake)
    conductor.start(None, loop)
    begun, goes_on = threading.Event(), threading.Event()

    def report(_: TrainingEvent) -> None:
        begun.set()
        assert goes_on.wait(60)

    with ThreadPoolExecutor(1) as threads:
        task = a_task(tmp_path, n_epochs=1000)
        left = threads.submit(loop.train, task, report, lambda: False)
        assert begun.wait(60)
        conductor.stop()
        loop.close()
        goes_on.set()
        with pytest.raises(RuntimeError, match="closed"):
            left.result()
    with pytest.raises(RuntimeError, match="closed"):
        train(loop, a_task(tmp_path))
