"""Tasks that share a batch do not share their troubles."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from service.base.memory_plan import Demand, Held, plan  # noqa: E402
from service.base.model_shape import shape_of  # noqa: E402
from service.base.segmented.pool import Pool  # noqa: E402
from service.base.segmented.slots import NoFreeSlot  # noqa: E402
from service.training.batch import row  # noqa: E402
from service.training.batch.trainer import BatchTrainer  # noqa: E402
from service.training.checkpoints import CheckpointIncomplete  # noqa: E402
from service.training.spec import LoraSpec  # noqa: E402
from service.training.trainer import (  # noqa: E402
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    TrainingError,
    TrainingEvent,
    TrainingOutcome,
)
from tests.unit.training.batch.crowds import crowd_trainer, tiny  # noqa: E402
from tests.unit.training.tasks import (  # noqa: E402
    Interrupted,
    Log,
    a_task,
    chat,
    config,
    sha256,
    train,
)

pytestmark = pytest.mark.torch


@pytest.fixture
def trainer() -> BatchTrainer:
    return crowd_trainer(torch.float32, tokens_at_once=1000)


def add(
    trainer: BatchTrainer, workdir: Path, log: Log | None = None, **spec: Any
) -> "Future[TrainingOutcome]":
    log = log or Log()
    return trainer.add(a_task(workdir, **spec), log.report, log.should_stop)


def test_tasks_train_at_the_same_time_and_leave_nothing(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    logs = [Log() for _ in range(3)]
    results = [
        add(trainer, tmp_path / str(i), log, seed=i, n_epochs=1 + i) for i, log in enumerate(logs)
    ]
    while trainer.step():
        pass
    trainer.run(*results)
    assert [result.result().steps for result in results] == [4, 8, 12]
    assert [log.steps for log in logs] == [list(range(1, n + 1)) for n in (4, 8, 12)]
    assert trainer.active == 0
    pool = trainer.resident.slots.pool
    assert not pool.weights.any()
    assert not pool.gradients.any()
    assert not pool.buffer("exp_avg_sq").any()


def test_a_loss_that_is_no_number_ends_its_task_alone(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    calm = sha256(train(trainer, a_task(tmp_path / "calm")).adapter)
    wild = {"learning_rate": 1e30, "gradient_clip": 0.0, "warmup_ratio": 0.0}
    bad = add(trainer, tmp_path / "bad", **wild)
    good = add(trainer, tmp_path / "good", seed=5)
    trainer.run(bad, good)
    with pytest.raises(TrainingError) as raised:
        bad.result()
    assert raised.value.code == "non_finite_loss"
    assert good.result().steps == 8
    assert sha256(train(trainer, a_task(tmp_path / "again")).adapter) == calm


def test_who_cannot_be_told_ends_alone(trainer: BatchTrainer, tmp_path: Path) -> None:
    deaf = add(trainer, tmp_path / "deaf", Log(until=2))
    good = add(trainer, tmp_path / "good")
    trainer.run(deaf, good)
    with pytest.raises(Interrupted):
        deaf.result()
    assert good.result().steps == 8


def test_who_cannot_be_asked_ends_alone(trainer: BatchTrainer, tmp_path: Path) -> None:
    def mute() -> bool:
        raise Interrupted

    log = Log()
    bad = trainer.add(a_task(tmp_path / "bad"), log.report, mute)
    good = add(trainer, tmp_path / "good")
    trainer.run(bad, good)
    with pytest.raises(Interrupted):
        bad.result()
    assert good.result().steps == 8


def test_a_fault_within_a_row_ends_only_who_has_it_alone(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, logs = Log(), [Log() for _ in range(3)]
    train(trainer, a_task(tmp_path / "calm"), calm)
    results = [add(trainer, tmp_path / str(i), log) for i, log in enumerate(logs)]
    learn, crashed = row.learn, []

    def crashes(resident: Any, pieces: Any) -> Any:
        if 1 in pieces:
            crashed.append(len(pieces))
            resident.slots.pool.gradients[sorted(pieces)] += 1.0
            raise RuntimeError("broken")
        return learn(resident, pieces)

    with monkeypatch.context() as patched:
        patched.setattr(row, "learn", crashes)
        trainer.run(*results)
    assert crashed == [3, 1]
    assert str(results[1].exception()) == "broken"
    for log in (logs[0], logs[2]):
        assert log.losses == pytest.approx(calm.losses, rel=1e-4)
    assert train(trainer, a_task(tmp_path / "next")).steps == 8


def test_a_fault_that_does_not_come_again_ends_nobody(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [add(trainer, tmp_path / str(i)) for i in range(2)]
    monkeypatch.setattr(row, "learn", failing(RuntimeError("broken"), 1, row.learn))
    trainer.run(*results)
    assert [result.result().steps for result in results] == [8, 8]


def failing(fault: Exception, times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    left = [fault] * times

    def fails(*given: Any) -> Any:
        if left:
            # As when it fails in the middle of a backward pass.
            slots = given[0].slots
            slots.pool.gradients[sorted(slots.taken)] += 1.0
            raise left.pop()
        return then(*given)

    return fails


def test_a_row_that_does_not_fit_is_taken_in_smaller_ones(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, log = Log(), Log()
    train(trainer, a_task(tmp_path / "calm"), calm)
    fails = failing(torch.OutOfMemoryError("too much"), 2, row.learn)
    monkeypatch.setattr(row, "learn", fails)
    train(trainer, a_task(tmp_path / "tight"), log)
    assert log.losses == pytest.approx(calm.losses, rel=1e-4)
    assert log.of(StepDone)[-1].tokens == calm.of(StepDone)[-1].tokens


def test_each_size_that_does_not_fit_is_tried_once_and_then_halved(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = row.learn

    def narrow(base: Any, pieces: Any) -> Any:
        sizes.append(sum(one.length for piece in pieces.values() for one in piece.examples))
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("too much")
        return plain(base, pieces)

    longest = trainer.plan(a_task(tmp_path / "any")).longest
    room = longest + 1
    monkeypatch.setattr(row, "learn", narrow)
    assert train(trainer, a_task(tmp_path)).steps == 8
    tried = [size for size in sizes if size > room]
    assert 1 < len(tried) < 4
    assert all(after <= before // 2 for before, after in pairwise(tried))
    assert all(size <= room for size in sizes[len(tried) :])


def test_a_single_example_gets_a_second_chance_but_no_third(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, log = Log(), Log()
    alone: dict[str, Any] = {"batch_size": 1, "n_epochs": 1}
    train(trainer, a_task(tmp_path / "calm", **alone), calm)
    fault = torch.OutOfMemoryError("too much")
    layer, again, plain = trainer.resident.base.model.model.layers[0], [], row.learn

    def learn(resident: Any, pieces: Any) -> Any:
        again.append(layer.training)
        return plain(resident, pieces)

    with monkeypatch.context() as patched:
        patched.setattr(row, "learn", failing(fault, 1, learn))
        train(trainer, a_task(tmp_path / "tight", **alone), log)
    assert log.losses == calm.losses
    assert again == [True] + [False] * (len(again) - 1)
    monkeypatch.setattr(row, "learn", failing(fault, 2, row.learn))
    with pytest.raises(TrainingError) as raised:
        train(trainer, a_task(tmp_path / "tighter", **alone))
    assert raised.value.code == "out_of_memory"


@pytest.mark.parametrize(
    ("free", "param", "cause"),
    [(2**20, "lora.rank", "adapter"), (5 * 10**7, "max_length", "long")],
)
def test_what_could_never_fit_is_refused_before_it_joins(
    tmp_path: Path, free: int, param: str, cause: str
) -> None:
    shape = shape_of(tiny(torch.float32).model.config.to_dict())
    demand = Demand(targets=frozenset(shape.linears), training_slots=8, training_rank=8)
    memory = plan(shape, Held("none", 4, "cpu"), demand, free)
    trainer = crowd_trainer(torch.float32, memory=memory)
    short = a_task(tmp_path, max_length=32768)
    long = msgspec.structs.replace(short, train=[chat("Say", "so " * 30_000)])
    with pytest.raises(TrainingError, match=rf"{cause}.*GiB are needed") as raised:
        trainer.plan(long)
    assert (raised.value.code, raised.value.param) == (
        "out_of_memory",
        f"method.supervised.{param}",
    )
    if cause == "long":
        trainer.plan(short)


def test_rows_that_would_not_fit_otherwise_are_computed_again_and_learn_the_same(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, log = Log(), Log()
    train(trainer, a_task(tmp_path / "calm"), calm)
    shape = shape_of(tiny(torch.float32).model.config.to_dict())
    demand = Demand(
        targets=frozenset(shape.linears), training_slots=8, training_rank=8, enough_tokens=1
    )
    longest = trainer.plan(a_task(tmp_path / "any")).longest
    plans = (plan(shape, Held("none", 4, "cpu"), demand, n) for n in range(2**21, 2**23, 2**12))
    memory = next(one for one in plans if one.kept_tokens == longest - 1)
    tight = crowd_trainer(torch.float32, tokens_at_once=memory.kept_tokens, memory=memory)
    layer = tight.resident.base.model.model.layers[0]
    again: set[tuple[bool, bool]] = set()
    plain = row.learn

    def learn(resident: Any, pieces: Any) -> Any:
        tokens = sum(one.length for piece in pieces.values() for one in piece.examples)
        again.add((tokens > memory.kept_tokens, layer.training))
        return plain(resident, pieces)

    monkeypatch.setattr(row, "learn", learn)
    train(tight, a_task(tmp_path / "tight"), log)
    assert again == {(False, False), (True, True)}
    assert log.losses == pytest.approx(calm.losses, rel=1e-4)


def test_an_example_that_does_not_fit_ends_its_task_with_the_figures(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = torch.OutOfMemoryError("too much")
    monkeypatch.setattr(row, "learn", failing(fault, 100, row.learn))
    with pytest.raises(TrainingError, match=r"example of \d+ tokens") as raised:
        train(trainer, a_task(tmp_path))
    assert raised.value.param == "method.supervised.max_length"


def test_when_all_slots_are_taken_nobody_joins(tmp_path: Path) -> None:
    trainer = crowd_trainer(torch.float32)
    for number in range(8):
        add(trainer, tmp_path / str(number))
    with pytest.raises(NoFreeSlot):
        add(trainer, tmp_path / "more")
    assert trainer.active == 8


def test_a_greater_rank_widens_the_slots_and_disturbs_nobody(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    calm = Log()
    train(trainer, a_task(tmp_path / "calm"), calm)
    log, wide = Log(), LoraSpec(rank=20, alpha=8)
    first = add(trainer, tmp_path / "first", n_epochs=1)
    watched = add(trainer, tmp_path / "watched", log)
    for _ in range(5):
        trainer.step()
    trainer.run(first)
    second = add(trainer, tmp_path / "second", lora=wide)
    assert trainer.resident.slots.pool.most_rank == 20
    trainer.run(watched, second)
    assert log.losses == pytest.approx(calm.losses, rel=1e-4)
    assert config(second.result().adapter)["r"] == 20
    assert config(watched.result().adapter)["r"] == 4


def test_a_rank_that_there_is_no_memory_for_is_refused_and_disturbs_nobody(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, log = Log(), Log()
    train(trainer, a_task(tmp_path / "calm"), calm)
    watched = add(trainer, tmp_path / "watched", log)
    for _ in range(3):
        trainer.step()
    plain = Pool.buffer

    def small(pool: Pool, name: str) -> torch.Tensor:
        if pool.most_rank > 8 and name == "exp_avg_sq":
            raise torch.OutOfMemoryError("too much")
        return plain(pool, name)

    monkeypatch.setattr(Pool, "buffer", small)
    with pytest.raises(TrainingError, match="no memory for rank 20"):
        add(trainer, tmp_path / "wide", lora=LoraSpec(rank=20))
    trainer.run(watched)
    assert log.losses == calm.losses


def test_a_slow_listener_does_not_hold_the_others_up(trainer: BatchTrainer, tmp_path: Path) -> None:
    heard, log = threading.Event(), Log()

    def slow(event: TrainingEvent) -> None:
        assert heard.wait(60)
        log.report(event)

    lagging = trainer.add(a_task(tmp_path / "slow", n_epochs=1), slow, log.should_stop)
    trainer.run(add(trainer, tmp_path / "quick"))
    assert not lagging.done()
    assert log.events == []
    heard.set()
    trainer.run(lagging)
    assert [type(event) for event in log.events][-2:] == [EpochDone, CheckpointDue]


def test_measuring_one_does_not_stop_the_others(trainer: BatchTrainer, tmp_path: Path) -> None:
    order: list[str] = []

    def tell(name: str) -> Callable[[TrainingEvent], None]:
        return lambda event: order.append(f"{name} {type(event).__name__}")

    many = a_task(tmp_path / "measured", validation=200, n_epochs=1)
    measured = trainer.add(many, tell("measured"), lambda: False)
    training = trainer.add(a_task(tmp_path / "quick", 0), tell("quick"), lambda: False)
    while not any(line.startswith("measured Eval") for line in order):
        trainer.step()
    assert order.count("quick StepDone") >= 3
    trainer.run(measured, training)


def test_an_adapter_that_the_base_cannot_carry_is_refused(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    strange = LoraSpec(target_modules=("q_proj", "strange_proj"))
    with pytest.raises(TrainingError, match="strange_proj") as raised:
        add(trainer, tmp_path, lora=strange)
    assert raised.value.param == "method.supervised.lora.target_modules"
    assert trainer.active == 0


def test_a_resumed_task_among_others_ends_as_if_never_interrupted(tmp_path: Path) -> None:
    trainer = crowd_trainer(torch.float32, tokens_at_once=1000)
    trainer._checkpoint_steps = 3
    calm = Log()
    train(trainer, a_task(tmp_path / "calm"), calm)
    crashed = add(trainer, tmp_path / "stormy", Log(until=7))
    trainer.run(crashed)
    log = Log()
    others = [add(trainer, tmp_path / f"other-{i}", seed=i) for i in range(3)]
    resumed = add(trainer, tmp_path / "stormy", log)
    trainer.run(resumed, *others)
    assert log.of(Started)[0].step == 6
    assert log.losses == pytest.approx({s: calm.losses[s] for s in (7, 8)}, rel=1e-5)


def test_a_state_without_moments_is_not_kept(
    trainer: BatchTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.training.batch import states

    def forgetful(state: states.State, folder: Path) -> None:
        write(state, folder)
        (folder / states.MOMENTS_FILE).unlink()

    write = states.write
    monkeypatch.setattr(states, "write", forgetful)
    with pytest.raises(CheckpointIncomplete, match=r"optimizer\.safetensors"):
        train(trainer, a_task(tmp_path))


def test_measuring_does_not_change_what_is_learned(trainer: BatchTrainer, tmp_path: Path) -> None:
    measured = train(trainer, a_task(tmp_path / "measured", validation=3)).adapter
    blind = train(trainer, a_task(tmp_path / "blind", validation=0)).adapter
    assert sha256(measured) == sha256(blind)


def test_dropout_falls_anew_each_step_and_not_when_measured(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    """A learning rate of nothing leaves the weights, so that only the masks can differ."""
    still = {"learning_rate": 0.0, "n_epochs": 3, "batch_size": 13}
    log = Log()
    trainer.plan(a_task(tmp_path, **still))
    add_random_b = trainer.add(a_task(tmp_path, **still), log.report, log.should_stop)
    for view in trainer.resident.slots.weights(0).values():
        view.normal_(generator=torch.Generator().manual_seed(1))
    trainer.run(add_random_b)
    assert len(set(log.losses.values())) == 3
    assert len({event.valid_loss for event in log.of(Evaluated)}) == 1


def test_closing_ends_who_is_left_and_gives_the_slots_back(tmp_path: Path) -> None:
    trainer = crowd_trainer(torch.float32)
    left = add(trainer, tmp_path)
    trainer.step()
    trainer.close()
    assert isinstance(left.exception(10), RuntimeError)
    assert not trainer.resident.slots.taken


def test_a_task_of_another_base_does_not_resume_from_this_ones_checkpoint(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    train(trainer, a_task(tmp_path))
    loaded = trainer._loaded
    other = msgspec.structs.replace(loaded, quantization="nf4")
    trainer._loaded = other
    assert trainer.plan(a_task(tmp_path)).progress.step == 0
