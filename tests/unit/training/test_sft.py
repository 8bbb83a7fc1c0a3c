"""The real trainer: what TRL, PEFT and bitsandbytes would do silently, and does not happen here."""

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from service.training.spec import LoraSpec
from service.training.trainer import EpochDone, Evaluated, StepDone, Trainer, TrainingError
from tests.unit.training.real import loaded_base, real_trainer
from tests.unit.training.tasks import LORA, Interrupted, Log, a_task, examples, sha256, train

pytestmark = pytest.mark.torch

Held = Literal["nf4", "none"]
TOKENS = [[1, 17, 42, 99, 7, 256, 8, 12]]


@pytest.fixture(scope="module", params=["nf4", "none"])
def held(request: pytest.FixtureRequest) -> Held:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def trainer(held: Held) -> Trainer:
    return real_trainer(held, 3)


@pytest.fixture
def untouched(held: Held, trainer: Trainer) -> Iterator[Any]:
    """The base; checks at the end that nothing of the test's task is left on it."""
    model = loaded_base(held).model
    before = traces(model)
    yield model
    assert traces(model) == before


def traces(model: Any) -> dict[str, Any]:
    """All that a task could leave on a base."""
    import torch

    with torch.no_grad():
        answers = model(input_ids=torch.tensor(TOKENS)).logits.numpy().tobytes()
    return {
        "logits": answers,
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": sorted(vars(model)),
        "forward": vars(model).get("forward"),
        "hooks": sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ),
        "modes": {module.training for module in model.modules()},
        "checkpointing": model.is_activation_checkpointing,
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "config": model.config.to_json_string(),
        "generation": model.generation_config.to_json_string(),
    }


def test_a_task_leaves_no_trace_on_the_base(
    trainer: Trainer, untouched: Any, tmp_path: Path
) -> None:
    train(trainer, a_task(tmp_path))


def test_nor_does_one_that_is_stopped(trainer: Trainer, untouched: Any, tmp_path: Path) -> None:
    assert train(trainer, a_task(tmp_path), Log(stop=2)).stopped


@pytest.mark.parametrize("event", [StepDone, Evaluated, EpochDone])
def test_nor_does_one_that_crashed(
    trainer: Trainer, untouched: Any, tmp_path: Path, event: type
) -> None:
    class Crashing(Log):
        def report(self, reported: Any) -> None:
            if isinstance(reported, event):
                raise Interrupted

    with pytest.raises(Interrupted):
        train(trainer, a_task(tmp_path), Crashing())


def test_nor_does_one_that_trains_as_on_a_gpu(
    trainer: Trainer, untouched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, activations are computed anew and most arithmetic is in bf16."""
    from service.training import sft

    ours = sft.arguments

    def as_on_a_gpu(*spec: Any, **given: Any) -> Any:
        checkpointing = {"activation_checkpointing_kwargs": {"use_reentrant": False}}
        return dataclasses.replace(
            ours(*spec, **given), activation_checkpointing=True, bf16=True, **checkpointing
        )

    monkeypatch.setattr(sft, "arguments", as_on_a_gpu)
    log = Log()
    train(trainer, a_task(tmp_path), log)
    assert log.losses[8] < log.losses[1]


def test_nor_does_one_that_could_not_begin(
    trainer: Trainer, untouched: Any, tmp_path: Path
) -> None:
    strange = LoraSpec(target_modules=("q_proj", "strange_proj"))
    with pytest.raises(TrainingError, match="strange_proj") as raised:
        train(trainer, a_task(tmp_path, lora=strange))
    assert raised.value.param == "method.supervised.lora.target_modules"


def test_a_plain_base_resumes_to_the_same_adapter_too(tmp_path: Path) -> None:
    trainer = real_trainer("none", 3)
    calm = sha256(train(trainer, a_task(tmp_path / "calm")).adapter)
    for step in (2, 5):
        with pytest.raises(Interrupted):
            train(trainer, a_task(tmp_path / "stormy"), Log(until=step))
    assert sha256(train(trainer, a_task(tmp_path / "stormy")).adapter) == calm


def test_the_adapter_stays_in_fp32_though_trl_would_cast_it(
    trainer: Trainer, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    adapter = train(trainer, a_task(tmp_path)).adapter
    weights = load_file(adapter / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    # Weights that had been bf16 in between would have their lower halves empty.
    import torch

    assert any(not torch.equal(t, t.bfloat16().float()) for t in weights.values())


def test_measuring_does_not_change_what_is_learned(trainer: Trainer, tmp_path: Path) -> None:
    measured = train(trainer, a_task(tmp_path / "measured", validation=3)).adapter
    blind = train(trainer, a_task(tmp_path / "blind", validation=0)).adapter
    assert sha256(measured) == sha256(blind)


def test_accumulating_smaller_passes_learns_the_same(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.training import sft

    plain = LoraSpec(rank=4, alpha=8, dropout=0.0)
    whole, parts = Log(), Log()
    train(trainer, a_task(tmp_path / "whole", lora=plain), whole)
    monkeypatch.setattr(sft, "TOKENS_AT_ONCE", 64)
    train(trainer, a_task(tmp_path / "parts", lora=plain), parts)
    assert parts.losses.keys() == whole.losses.keys()
    for step, loss in whole.losses.items():
        assert parts.losses[step] == pytest.approx(loss, rel=1e-3)
    assert parts.of(StepDone)[-1].tokens == whole.of(StepDone)[-1].tokens
    assert [e.valid_loss for e in parts.of(Evaluated)] == pytest.approx(
        [e.valid_loss for e in whole.of(Evaluated)], rel=1e-3
    )


def test_the_validation_loss_is_the_mean_over_learned_tokens(tmp_path: Path) -> None:
    """Held to plain cross-entropy, computed without TRL."""
    import torch

    from service.rendering.renderer import Renderer
    from service.training.rows import render

    task = a_task(tmp_path)
    log = Log()
    trainer = real_trainer("none", 3)
    train(trainer, task, log)
    loaded = loaded_base("none")
    total, count, right = 0.0, 0, 0
    for row in render(Renderer(loaded.description), task).validation:
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        total, count = total + loss.item(), count + int((labels != -100).sum())
        right += int((logits.argmax(-1) == labels).sum())
    before = log.of(Evaluated)[0]
    assert before.valid_loss == pytest.approx(total / count, rel=1e-4)
    assert before.valid_mean_token_accuracy == pytest.approx(right / count)


def test_a_loss_that_is_not_finite_ends_the_task_and_says_so(
    trainer: Trainer, untouched: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as raised:
        train(trainer, a_task(tmp_path, learning_rate=1e30, gradient_clip=0.0, warmup_ratio=0.0))
    assert raised.value.code == "non_finite_loss"
    assert raised.value.param == "method.supervised.learning_rate"


def test_it_learns(tmp_path: Path) -> None:
    task = a_task(tmp_path, n_epochs=6, learning_rate=5e-3, lora=LORA)
    task = msgspec.structs.replace(task, validation=examples(3))
    log = Log()
    train(real_trainer("nf4", 50), task, log)
    measured = [event.valid_loss for event in log.of(Evaluated)]
    assert measured[-1] < measured[0] / 3


def test_nothing_is_said_to_the_network_or_on_stdout(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # TRL reports every run to its makers unless it believes to run in a CI.
    monkeypatch.delenv("CI", raising=False)
    asked: list[object] = []

    def refuse(_self: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *address, **_: refuse(None, address),  # type: ignore[arg-type]
    )
    train(trainer, a_task(tmp_path))
    assert asked == []
    assert capfd.readouterr().out == ""
