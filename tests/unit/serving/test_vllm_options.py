"""What follows from an operator's choices for vLLM."""

from types import SimpleNamespace

import pytest

from adapters_store import RevisionRef
from service.base.description import describe
from service.serving.engine_names import Numbers, NumberTaken, engine_name
from service.serving.vllm.options import CPU_KV_BYTES, Options, tuned_for
from service.settings import BUNDLED_BASE

FIRST, SECOND = RevisionRef("acme", "a", "0" * 64), RevisionRef("globex", "a", "0" * 64)


def options(**changes: object) -> Options:
    return Options(**{"max_resident": 4, "max_batch": 32, "max_lora_rank": 16, **changes})  # type: ignore[arg-type]


def test_a_slot_is_left_that_is_never_filled_and_nothing_waits_inside_vllm() -> None:
    assert options().slots == 5
    assert options().sequences == 32 + 4, "those of tenants of whom nothing runs too"


@pytest.mark.parametrize(("asked", "taken"), [(1, 8), (8, 8), (9, 16), (200, 256), (256, 256)])
def test_the_rank_is_the_least_that_vllm_takes(asked: int, taken: int) -> None:
    assert options(max_lora_rank=asked).rank == taken


def test_it_computes_in_what_the_resident_base_would() -> None:
    assert options().dtype(on_cpu=True) == "float32"
    assert options().dtype(on_cpu=False) == "bfloat16"
    assert options(compute_dtype="bfloat16").dtype(on_cpu=True) == "bfloat16"


def test_the_cache_holds_a_whole_context_at_least() -> None:
    base = describe(str(BUNDLED_BASE))
    token = 2 * 6 * 2 * 64 * 4
    context = base.context_length + 1
    assert options().kv_bytes(base, on_cpu=True) == 36 * context * token
    assert options(max_batch=8000).kv_bytes(base, on_cpu=True) == CPU_KV_BYTES
    assert options(kv_tokens=1).kv_bytes(base, on_cpu=True) == context * token
    assert options(kv_tokens=9000).kv_bytes(base, on_cpu=True) == 9000 * token
    assert options().kv_bytes(base, on_cpu=False) is None, "what the share of the card leaves"


def test_a_number_is_one_revisions_for_ever() -> None:
    numbers = Numbers()
    numbers.learn(FIRST, 3)
    numbers.learn(FIRST, 3)
    assert (numbers.get(FIRST), numbers.get(SECOND)) == (3, None)
    for ref, number in ((SECOND, 3), (FIRST, 4), (SECOND, 0)):
        with pytest.raises(NumberTaken):
            numbers.learn(ref, number)
    assert engine_name(FIRST) != engine_name(SECOND), "whose it is is part of it"


def test_block_sizes_are_for_the_gpu_and_the_layers_that_they_were_measured_with() -> None:
    base = describe(str(BUNDLED_BASE))
    folder = tuned_for(base, "NVIDIA H200")
    assert folder is not None
    assert {file.name for file in folder.glob("*.json")} == {
        f"NVIDIA_H200_{kernel}.json" for kernel in ("SHRINK", "EXPAND_TRUE", "EXPAND_FALSE")
    }
    assert tuned_for(base, "NVIDIA A100-SXM4-80GB") is None
    other = SimpleNamespace(linear_modules=base.linear_modules | {"in_proj_qkvz"})
    assert tuned_for(other, "NVIDIA H200") is None  # type: ignore[arg-type]
