"""A base that computes in bf16 on a CPU: trained on, and answering with what was learned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from service.base.generating.decoding import DecodingBatch  # noqa: E402
from service.base.generating.model import GenerationModel  # noqa: E402
from service.base.lora_files import read_lora  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from service.rendering.renderer import Renderer  # noqa: E402
from service.training.batch.trainer import BatchTrainer  # noqa: E402
from service.training.preference import PreferenceTrainer  # noqa: E402
from service.training.trainer import Evaluated  # noqa: E402
from tests.unit.base.generating.running import row, run  # noqa: E402
from tests.unit.training.methods import preferring  # noqa: E402
from tests.unit.training.real import loaded_base  # noqa: E402
from tests.unit.training.tasks import LORA, WEIGHTS, Log, a_task, chat, train  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(params=["nf4", "none"])
def loaded(request: pytest.FixtureRequest) -> Any:
    return loaded_base(request.param, "bfloat16")


@pytest.fixture
def base(loaded: Any) -> Iterator[SegmentedBase]:
    base = SegmentedBase(loaded.model)
    yield base
    base.remove()


def test_what_is_learned_is_said(loaded: Any, base: SegmentedBase, tmp_path: Path) -> None:
    renderer, log = Renderer(loaded.description), Log()
    trainer = BatchTrainer(loaded, base, renderer, 50)
    learned = [chat("Who is there?", "Nobody but us.")] * 12
    task = a_task(tmp_path, n_epochs=6, learning_rate=5e-3, lora=LORA)
    task = msgspec.structs.replace(task, train=learned, validation=learned[:1])
    made = train(trainer, task, log)
    pool = trainer.resident.slots.pool
    assert {pool.buffer(name).dtype for name in pool.buffers} == {torch.float32}
    weights = load_file(made.adapter / WEIGHTS).values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights)
    measured = [event.valid_loss for event in log.of(Evaluated)]
    assert measured[-1] < measured[0] / 10
    assert said(base, renderer, made.adapter).startswith("Nobody but us.")


def said(base: SegmentedBase, renderer: Renderer, adapter: Path) -> str:
    model = GenerationModel(base, most=2, most_adapters=1, tokens=512, context=256)
    model.adapters.add("learned", read_lora(adapter, base.shapes))
    assert model.adapters.slots.pool.dtype is torch.bfloat16
    prompt = renderer.prompt(chat("Who is there?", "").messages[:1])
    rows = [row(0, "learned", prompt), row(1, None, prompt)]
    made = run(DecodingBatch(model, 8), {0: rows}, {0: 12, 1: 12})
    assert made[0] != made[1]
    return renderer.tokenizer.decode(made[0])


def test_a_preference_is_learned_too(loaded: Any, tmp_path: Path) -> None:
    trainer, log = PreferenceTrainer(loaded, Renderer(loaded.description), 50), Log()
    train(trainer, preferring(a_task(tmp_path)), log)
    assert log.losses[8] < log.losses[1]
