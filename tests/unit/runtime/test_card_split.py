"""Both processes on a card ask for its split, and what they are told goes together."""

import msgspec
import pytest

from service.base.card_sharing import PARTS_OF_CARD, RESERVED
from service.base.description import BaseDescription, describe
from service.runtime.card_split import CardTooSmall, split
from service.runtime.vllm_process import UNPLANNED_SHARE, options_of
from service.settings import BUNDLED_BASE, Settings
from service.training.refusing import RefusingTrainer
from service.training.trainer import TrainingError
from tests.properties.test_memory_plan import EIGHT_B
from tests.unit.training.tasks import a_task

GIB = 2**30
SETTINGS = Settings(engine="vllm", max_lora_rank=16, training_slots=4)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> BaseDescription:
    """An 8B model, of which there is nothing but its config."""
    found = describe(str(BUNDLED_BASE))
    found.__dict__["config"] = EIGHT_B | {"max_position_embeddings": 8192}
    return found


def test_vllm_is_told_its_share_and_training_the_rest(base: BaseDescription) -> None:
    total = 80 * GIB
    found = split(SETTINGS, base, total)
    assert found is not None
    assert found.together
    told = options_of(SETTINGS, found)
    assert (told.memory_share, told.sleeps) == (found.utilization, False)
    vllm = -(-round(told.memory_share * PARTS_OF_CARD) * total // PARTS_OF_CARD)
    assert vllm + found.training_bytes <= total - RESERVED
    # What vLLM is told otherwise is what was planned for.
    assert told.slots == SETTINGS.max_resident_adapters + 1
    assert told.rank == 16


def test_on_a_small_card_it_is_started_so_that_it_can_sleep(
    base: BaseDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtime.card_split.available_memory", lambda: 64 * GIB)
    settings = msgspec.structs.replace(SETTINGS, quantization="none")
    found = split(settings, base, 44 * GIB)
    assert found is not None
    assert not found.together
    assert options_of(settings, found).sleeps
    monkeypatch.setattr("service.runtime.card_split.available_memory", lambda: 8 * GIB)
    with pytest.raises(CardTooSmall, match=r"of main memory to take turns, of 8\.00 GiB"):
        split(settings, base, 44 * GIB)


def test_what_does_not_fit_is_refused_with_the_figures(base: BaseDescription) -> None:
    with pytest.raises(CardTooSmall, match=r"GiB are needed, 15\.00 GiB are free"):
        split(SETTINGS, base, 16 * GIB)


def test_an_operator_may_say_what_vllm_takes(base: BaseDescription) -> None:
    settings = msgspec.structs.replace(SETTINGS, vllm_memory_share=0.9)
    assert split(settings, base, GIB) is None
    assert options_of(settings).memory_share == 0.9


def test_a_base_of_unknown_build_is_not_guessed_at(base: BaseDescription) -> None:
    base.__dict__["config"] = base.config | {"num_local_experts": 8}
    assert split(SETTINGS, base, 80 * GIB) is None
    assert options_of(SETTINGS).memory_share == UNPLANNED_SHARE


def test_what_cannot_take_turns_is_refused_with_the_reason(tmp_path: object) -> None:
    with pytest.raises(TrainingError, match="in turns") as raised:
        RefusingTrainer("only in turns").train(
            a_task(tmp_path),  # type: ignore[arg-type]
            lambda _: None,
            lambda: False,
        )
    assert raised.value.code == "out_of_memory"
