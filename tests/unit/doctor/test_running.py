"""What would run follows from the settings and the facts, and what cannot is a failed check."""

from typing import Any

import msgspec
import pytest

from service.doctor.facts import Base, Missing
from service.doctor.running import Running, running
from service.settings import Settings
from tests.unit.doctor.fixtures import CAN, CPU, GIB, GPU, WELL, facts


def on(free: int, settings: Settings, **changes: Any) -> Running:
    gpu = msgspec.structs.replace(GPU, total=free + GIB // 2, free=free)
    return running(settings, facts(can=msgspec.structs.replace(CAN, gpus=[gpu]), **changes))


def state(told: Running) -> list[str]:
    return [one.state for one in told.findings]


def test_a_large_card_does_both_on_one_base() -> None:
    told = on(79 * GIB, Settings())
    assert told.lines["engine"].startswith("resident")
    assert told.lines["base"] == "llama in NF4, computing in bfloat16"
    assert told.lines["trained at once"].startswith("16 jobs, ")
    assert told.lines["served at once"].startswith("16 adapters, ")
    assert state(told) == ["ok"]


def test_without_a_gpu_the_cpu_computes() -> None:
    told = running(Settings(quantization="auto"), facts(can=CPU))
    assert told.lines["device"] == "16 CPU cores"
    assert told.lines["base"] == "llama in float32, computing in float32"
    tight = running(Settings(quantization="auto"), facts(can=CPU, memory=40 * GIB))
    assert tight.lines["base"] == "llama in NF4, computing in float32"


def test_vllm_and_the_resident_base_split_a_card_as_planned() -> None:
    settings = Settings(engine="vllm", quantization="none")
    told = on(79 * GIB, settings)
    assert told.lines["shared"] == "vLLM answers while the resident base trains"
    assert told.lines["vLLM"].startswith("gpu_memory_utilization 0.")
    assert "keys and values" in told.lines
    assert state(told) == ["ok"]
    small = Settings(engine="vllm", quantization="none", max_lora_rank=16, training_slots=4)
    assert on(43 * GIB, small).lines["shared"].startswith("in turns: vLLM sleeps")
    [poor] = on(43 * GIB, small, memory=4 * GIB).findings
    assert poor.state == "fail"
    assert "of main memory to take turns, of 4.00 GiB" in poor.found


def test_what_the_operator_says_vllm_takes_is_left_to_it() -> None:
    told = on(79 * GIB, Settings(engine="vllm", vllm_memory_share=0.5))
    assert told.lines["vLLM"].startswith("gpu_memory_utilization 0.500, as LOREHOUSE_VLLM")
    assert "shared" not in told.lines
    assert state(told) == ["ok"]
    greedy = on(79 * GIB, Settings(engine="vllm", vllm_memory_share=0.95))
    assert state(greedy) == ["fail"]


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    settings = Settings(engine="vllm", quantization="none")
    [refused] = on(20 * GIB, settings).findings
    assert (refused.check, refused.state) == ("memory plan", "fail")
    assert "GiB are needed, 19.50 GiB are free" in refused.found
    assert "LOREHOUSE_MAX_LORA_RANK" in refused.do
    [alone] = on(10 * GIB, Settings()).findings
    assert alone.state == "fail"
    assert "9.00 GiB are available" in alone.found


def test_a_cache_below_one_context_is_told_of() -> None:
    base = Base(name="b", parameters=8 * 10**9, context=131072, config=WELL.base.config)
    [short] = on(40 * GIB, Settings(), base=base).findings
    assert short.state == "warn"
    assert "131,072" in short.found


@pytest.mark.parametrize("changes", [{"base": Missing("gone")}, {"can": "it died"}])
def test_where_nobody_can_know_nothing_is_said(changes: dict[str, Any]) -> None:
    assert running(Settings(), facts(**changes)) == Running({})


def test_a_base_of_unknown_build_is_not_guessed_at() -> None:
    config = WELL.base.config | {"num_local_experts": 8}
    base = Base(name="moe", parameters=10**9, context=4096, config=config)
    told = running(Settings(), facts(base=base))
    assert state(told) == ["warn"]
    assert "mixture of experts" in told.findings[0].found
    assert set(told.lines) == {"engine", "device", "base"}
