"""The solo methods: that they learn, and what they leave to others meanwhile."""

import gc
import math
import socket
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.rendering.examples import CompletionExample, Message, PreferenceExample, PromptExample
from service.training.graders.shapes import MultiGrader, StringCheckGrader
from service.training.spec import BaseAdapter, DpoSpec, EarlyStopping, LoraSpec
from service.training.trainer import Evaluated, StepDone, TrainingError, TrainingTask
from tests.unit.training.methods import (
    ANSWER,
    QUICK,
    graded_by,
    preference_trainer,
    preferring,
    reinforcement_trainer,
    reinforcing,
)
from tests.unit.training.real import loaded_base, traces
from tests.unit.training.tasks import LORA, WEIGHTS, Interrupted, Log, a_task, sha256, train

pytestmark = pytest.mark.torch

METHODS = {
    "dpo": (preference_trainer, preferring),
    "reinforcement": (reinforcement_trainer, reinforcing),
}
PLAIN = LoraSpec(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make(method: str) -> Callable[..., Any]:
    return METHODS[method][0]


@pytest.fixture
def translate(method: str) -> Callable[[TrainingTask], TrainingTask]:
    return METHODS[method][1]  # type: ignore[return-value]


@pytest.mark.parametrize("held", ["nf4", "none"])
def test_the_base_is_left_as_it_was(make: Any, translate: Any, tmp_path: Path, held: Any) -> None:
    """By a task that crashes, by one that is stopped, and by one that ends."""
    base = loaded_base(held).model
    before, task, trainer = traces(base), translate(a_task(tmp_path)), make(held, 3)
    with pytest.raises(Interrupted):
        train(trainer, task, Log(until=2))
    assert traces(base) == before
    assert train(trainer, task, Log(stop=2)).stopped
    assert traces(base) == before
    adapter = train(trainer, task).adapter
    assert traces(base) == before
    _assert_never_rounded(adapter)


def _assert_never_rounded(adapter: Path) -> None:
    """Check that weights are fp32, and were: bf16 in between leaves their lower halves empty."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(adapter / WEIGHTS).values()
    assert {tensor.dtype for tensor in weights} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights)


def test_a_base_that_is_resident_can_serve_meanwhile(
    make: Any, translate: Any, tmp_path: Path
) -> None:
    """Another thread runs the segmented base, layer by layer, whenever the twin pauses."""
    import torch

    from service.base.segmented.base import SegmentedBase
    from service.base.segmented.layout import Part

    task = translate(a_task(tmp_path / "alone", n_epochs=1))
    alone = sha256(train(make("nf4", 3), task).adapter)
    resident = SegmentedBase(loaded_base("nf4").model)
    ids = torch.tensor([1, 17, 42, 99])
    batch = resident.batch(resident.slots(capacity=1, rank=4), [Part(None, (4,))])
    served: list[bytes] = []
    due, done = threading.Event(), threading.Event()

    def serve() -> None:
        while not done.is_set():
            due.wait()
            with torch.no_grad(), resident.running(batch):
                served.append(resident.hidden(batch, ids).numpy().tobytes())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        task = translate(a_task(tmp_path / "shared", n_epochs=1))
        shared = sha256(train(make("nf4", 3, pause=due.set), task).adapter)
    finally:
        done.set()
        due.set()
        thread.join()
        resident.remove()
    assert shared == alone
    assert len(served) > 1
    assert len(set(served)) == 1


@pytest.mark.parametrize("held", ["nf4", "none"])
def test_it_trains_as_on_a_gpu(
    method: str,
    make: Any,
    translate: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: Any,
) -> None:
    """There, activations are computed anew and most arithmetic is in bf16."""
    from service.training import preference, reinforcement

    module: Any = {"dpo": preference, "reinforcement": reinforcement}[method]
    ours = module.arguments

    def as_on_a_gpu(*spec: Any, **given: Any) -> dict[str, Any]:
        return {**ours(*spec, **given), "activation_checkpointing": True, "bf16": True}

    monkeypatch.setattr(module, "arguments", as_on_a_gpu)
    base = loaded_base(held).model
    before, log = traces(base), Log()
    train(make(held, 3), translate(a_task(tmp_path)), log)
    assert traces(base) == before
    assert len(log.steps) == 8
    if method == "dpo":
        assert log.losses[8] < log.losses[1]


def test_smaller_parts_learn_nearly_the_same(
    method: str, make: Any, translate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.training import preference, reinforcement

    whole, parts = Log(), Log()
    train(make("none", 9), translate(a_task(tmp_path / "whole", n_epochs=1, lora=PLAIN)), whole)
    module = {"dpo": preference, "reinforcement": reinforcement}[method]
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 64)
    trainer = make("none", 9)
    train(trainer, translate(a_task(tmp_path / "parts", n_epochs=1, lora=PLAIN)), parts)
    assert len(parts.steps) == len(whole.steps) == 4
    assert parts.of(StepDone)[-1].learning_rate == whole.of(StepDone)[-1].learning_rate
    if method == "dpo":  # sampling in parts takes other random numbers
        assert parts.losses == pytest.approx(whole.losses, rel=1e-3, abs=1e-6)
        assert [e.valid_loss for e in parts.of(Evaluated)] == pytest.approx(
            [e.valid_loss for e in whole.of(Evaluated)], rel=1e-3
        )


def test_nothing_is_said_to_the_network_or_on_stdout(
    make: Any,
    translate: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("CI", raising=False)
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    trainer = make("nf4", 3)
    capfd.readouterr()
    train(trainer, translate(a_task(tmp_path)))
    assert asked == []
    assert capfd.readouterr().out == ""


def test_a_second_task_waits_for_the_first_or_until_it_is_stopped(
    make: Any, translate: Any, tmp_path: Path
) -> None:
    trainer, waited = make("nf4", 3), Log(stop=1)

    class Holding(Log):
        def report(self, event: Any) -> None:
            if not self.events:
                stopped = train(trainer, translate(a_task(tmp_path / "second")), waited)
                assert stopped.stopped
            super().report(event)

    assert not train(trainer, translate(a_task(tmp_path / "first", n_epochs=1)), Holding()).stopped
    assert waited.events == []
    again = train(trainer, translate(a_task(tmp_path / "second", n_epochs=1)), waited)
    assert (again.stopped, again.steps) == (False, 4)


def test_a_task_leaves_no_model_behind(
    make: Any, translate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.training import solo

    made: list[weakref.ref[Any]] = []

    def remembered(*given: Any) -> Any:
        model = solo_twin(*given)
        made.append(weakref.ref(model))
        return model

    solo_twin = solo.twin
    monkeypatch.setattr(solo, "twin", remembered)
    train(make("nf4", 3), translate(a_task(tmp_path, n_epochs=1)))
    gc.collect()
    assert [one() for one in made] == [None]


def test_an_unknown_target_is_named_under_its_method(
    method: str, make: Any, translate: Any, tmp_path: Path
) -> None:
    strange = LoraSpec(target_modules=("q_proj", "strange_proj"))
    with pytest.raises(TrainingError, match="strange_proj") as raised:
        train(make("nf4", 3), translate(a_task(tmp_path, lora=strange)))
    assert raised.value.param == f"method.{method}.lora.target_modules"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("early_stopping", EarlyStopping(patience=1)),
        ("base_adapter", BaseAdapter(adapter="parent", digest="a" * 64)),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    method: str, make: Any, translate: Any, tmp_path: Path, field: str, value: Any
) -> None:
    task = translate(a_task(tmp_path))
    spec = msgspec.structs.replace(task.spec, **{field: value})
    parent = tmp_path if field == "base_adapter" else None
    with pytest.raises(TrainingError) as raised:
        train(make("nf4", 3), msgspec.structs.replace(task, spec=spec, parent=parent))
    assert raised.value.code == "unsupported_parameter"
    assert raised.value.param == f"method.{method}.{field}"


def test_a_loss_that_is_not_finite_ends_the_task_and_says_so(tmp_path: Path) -> None:
    base = loaded_base("nf4").model
    before = traces(base)
    wild = a_task(tmp_path, learning_rate=1e30, gradient_clip=0.0, warmup_ratio=0.0)
    with pytest.raises(TrainingError) as raised:
        train(preference_trainer("nf4", 3), preferring(wild))
    assert raised.value.code == "non_finite_loss"
    assert raised.value.param == "method.dpo.learning_rate"
    assert traces(base) == before


def test_examples_of_another_method_are_the_tasks_fault(
    method: str, make: Any, translate: Any, tmp_path: Path
) -> None:
    task, plain = translate(a_task(tmp_path)), a_task(tmp_path)
    for name in ("train", "validation"):
        mixed = msgspec.structs.replace(task, **{name: getattr(plain, name)})
        with pytest.raises(TrainingError) as raised:
            train(make("nf4", 3), mixed)
        assert raised.value.code == "invalid_training_file"


def test_a_preference_is_learned(tmp_path: Path) -> None:
    log = Log()
    train(preference_trainer("nf4", 50), preferring(a_task(tmp_path)), log)
    first, *_, last = log.of(Evaluated)
    # Before training nothing is preferred: the loss is that of a coin.
    assert first.valid_loss == pytest.approx(math.log(2), rel=1e-4)
    assert first.metrics["valid_rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last.metrics["valid_rewards/margins"] > 1
    assert last.metrics["valid_rewards/accuracies"] == 1
    assert last.valid_loss < first.valid_loss / 2
    margins = [step.metrics["rewards/margins"] for step in log.of(StepDone)]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 1


def test_preferences_are_measured_as_often_as_asked(tmp_path: Path) -> None:
    calm, watched = Log(), Log()
    train(preference_trainer("nf4", 50), preferring(a_task(tmp_path / "calm")), calm)
    task = a_task(tmp_path / "watched", eval_steps=3)
    train(preference_trainer("nf4", 50), preferring(task), watched)
    assert [event.step for event in watched.of(Evaluated)] == [0, 3, 4, 6, 8]
    assert calm.weights == watched.weights


def test_a_greater_beta_weighs_the_same_step_more(tmp_path: Path) -> None:
    """After the warm-up's first step of rate 0, the rewards of step 3 are of one update."""
    margins = {}
    for beta in (0.1, 0.5):
        task = preferring(a_task(tmp_path / str(beta), n_epochs=1, lora=PLAIN))
        spec = msgspec.structs.replace(task.spec, dpo=DpoSpec(beta=beta))
        log = Log()
        train(preference_trainer("none", 50), msgspec.structs.replace(task, spec=spec), log)
        margins[beta] = log.of(StepDone)[2].metrics["rewards/margins"]
    # Adam's first update does not depend on the gradient's size.
    assert margins[0.5] == pytest.approx(5 * margins[0.1], rel=0.05)


def test_preferences_of_plain_text_are_learned_too(tmp_path: Path) -> None:
    def pair(number: int) -> PreferenceExample:
        prompt = f"The {number} is"
        return PreferenceExample(
            CompletionExample(prompt, " good."), CompletionExample(prompt, " bad.")
        )

    pairs = [pair(number) for number in range(8)]
    task = msgspec.structs.replace(preferring(a_task(tmp_path)), train=pairs, validation=pairs[:2])
    log = Log()
    train(preference_trainer("nf4", 50), task, log)
    assert log.of(Evaluated)[-1].metrics["valid_rewards/margins"] > 0.5


def test_what_is_graded_well_is_said_more_often(tmp_path: Path) -> None:
    chosen = graded_by(QUICK.grader, completions=4, max_completion_tokens=8, eval_samples=2)
    task = reinforcing(a_task(tmp_path, n_epochs=3, learning_rate=3e-3, lora=LORA), chosen)
    log = Log()
    train(reinforcement_trainer("nf4", 50), task, log)
    first, *_, last = log.of(Evaluated)
    assert (first.valid_loss, first.valid_mean_token_accuracy) == (None, None)
    assert last.metrics["valid_mean_reward"] > first.metrics["valid_mean_reward"] + 0.15
    rewards = [step.metrics["train_mean_reward"] for step in log.of(StepDone)]
    assert sum(rewards[-4:]) > 2 * sum(rewards[:4])


def test_it_is_measured_as_often_as_asked_and_at_every_epochs_end(tmp_path: Path) -> None:
    calm, watched = Log(), Log()
    for log, interval in ((calm, 0), (watched, 3)):
        task = reinforcing(a_task(tmp_path / str(interval)), graded_by(QUICK.grader))
        spec = msgspec.structs.replace(task.spec.reinforcement, eval_interval=interval)
        changed = msgspec.structs.replace(task.spec, reinforcement=spec)
        train(reinforcement_trainer("nf4", 50), msgspec.structs.replace(task, spec=changed), log)
    assert [event.step for event in calm.of(Evaluated)] == [0, 4, 8]
    assert [event.step for event in watched.of(Evaluated)] == [0, 3, 4, 6, 8]
    # Measuring samples from random numbers of its own.
    assert calm.weights == watched.weights


def test_graders_see_the_item_and_an_answer_without_a_grade_counts_0(tmp_path: Path) -> None:
    knows = StringCheckGrader("knows", "{{ item.answer }}", "It is", "like")
    task = reinforcing(a_task(tmp_path, n_epochs=1), graded_by(knows))
    log = Log()
    train(reinforcement_trainer("nf4", 50), task, log)
    assert {step.metrics["train_mean_reward"] for step in log.of(StepDone)} == {1.0}
    assert {step.metrics["train_grader_error_rate"] for step in log.of(StepDone)} == {0.0}
    never = MultiGrader("never", {"knows": knows}, "1 / (1 - knows)")
    task = reinforcing(a_task(tmp_path / "never", n_epochs=1), graded_by(never))
    log = Log()
    train(reinforcement_trainer("nf4", 50), task, log)
    assert {step.metrics["train_mean_reward"] for step in log.of(StepDone)} == {0.0}
    assert {step.metrics["train_grader_error_rate"] for step in log.of(StepDone)} == {1.0}


def test_a_row_that_cannot_be_graded_is_named_before_training(tmp_path: Path) -> None:
    task = reinforcing(
        a_task(tmp_path), graded_by(StringCheckGrader("x", ANSWER, "{{item.a}}", "eq"))
    )
    asked = [Message("user", "?")]
    some = [PromptExample(asked, None, {"a": "b"}), PromptExample(asked, None, {"b": "a"})]
    with pytest.raises(TrainingError, match=r"Example 2 .* item\.a") as raised:
        train(reinforcement_trainer("nf4", 50), msgspec.structs.replace(task, train=some))
    assert (raised.value.code, raised.value.param) == ("invalid_training_file", "training_file")


def test_fewer_prompts_than_a_batch_are_sampled_more_often(tmp_path: Path) -> None:
    task = reinforcing(a_task(tmp_path, validation=0))
    few = msgspec.structs.replace(task, train=task.train[:3])
    log = Log()
    outcome = train(reinforcement_trainer("nf4", 50), few, log)
    assert (outcome.steps, log.steps) == (2, [1, 2])
