"""The block sizes that are tried for vLLM's LoRA kernels, and how vLLM finds those chosen."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.lora_blocks import (
    BOLDEST,
    TARGETS,
    Case,
    Config,
    cases,
    descend,
    filed,
    groups,
    sensible,
    share,
    summed,
)

LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SIZES = (256, 8, 2048)
SLOTS = 32
DEFAULT: Config = {
    "block_m": 32,
    "block_n": 16,
    "block_k": 32,
    "split_k": 8,
    "num_warps": 4,
    "num_ctas": 1,
    "num_stages": 2,
    "max_nreg": None,
}


def looked_up(table: dict[str, Any], slots: int, slices: int, *wanted: int) -> Any:
    """Follow vLLM's rule: the nearest key, but for the slices, which must be there."""
    at = table[min(table, key=lambda key: abs(int(key) - slots - 1))][str(slices)]
    for number in wanted:
        at = at.get(str(number)) or at[min(at, key=lambda key: abs(int(key) - number))]
    return at


def some(op: str = "shrink", tokens: int = 256, rank: int = 16) -> Case:
    return next(case for case in cases(LLAMA, (tokens,), rank) if case.op == op)


def test_a_base_asks_for_its_layers_products_once_each() -> None:
    asked = {(case.op, case.layers): case.keys for case in cases(LLAMA, (256,), 16)}
    assert asked == {
        ("shrink", ("qkv",)): ("3", "256", "4096", "16"),
        ("expand", ("qkv",)): ("3", "256", "16", "4096"),
        ("shrink", ("gate_up",)): ("2", "256", "4096", "16"),
        ("expand", ("gate_up",)): ("2", "256", "16", "14336"),
        ("shrink", ("down",)): ("1", "256", "14336", "16"),
        ("expand", ("down", "o")): ("1", "256", "16", "4096"),
        ("shrink", ("o",)): ("1", "256", "4096", "16"),
    }
    assert some().outputs == (4096, 1024, 1024)


def test_what_is_tuned_for_fewer_layers_takes_the_place_of_all_layers_default() -> None:
    every = dict.fromkeys(cases(LLAMA, (256,), 16), DEFAULT)
    tuned: dict[Case, Config] = {
        case: {"mark": 1} for case in cases(LLAMA, (256,), 16, TARGETS["attention"])
    }
    assert ("o",) in {case.layers for case in tuned if case.op == "expand"}
    table = filed(every | tuned, "expand", SLOTS)
    assert looked_up(table, SLOTS, 1, 256, 16, 4096) == {"mark": 1}
    assert looked_up(table, SLOTS, 2, 256, 16, 14336) == DEFAULT


def test_what_comes_first_in_the_sizes_is_first() -> None:
    order = [case.tokens for case in cases(LLAMA, SIZES, 16)]
    assert order == sorted(order, key=SIZES.index)


@pytest.mark.parametrize("op", ["shrink", "expand"])
def test_vllm_finds_each_configuration_again(op: str) -> None:
    chosen = {case: {"mark": n} for n, case in enumerate(cases(LLAMA, SIZES, 16))}
    table = json.loads(json.dumps(filed(chosen, op, SLOTS)))  # type: ignore[arg-type]
    for case, config in chosen.items():
        if case.op == op:
            assert looked_up(table, SLOTS, *map(int, case.keys)) == config
    near = looked_up(table, SLOTS + 1, 3, 250, *map(int, some(op).keys[2:]))
    assert near == chosen[some(op)]


@given(left=st.integers(1, 10_000), waiting=st.integers(1, 99))
def test_shares_never_add_up_to_more_than_there_is(left: int, waiting: int) -> None:
    spent, shares = 0.0, []
    for number in range(waiting):
        shares.append(share(left - spent, waiting - number))
        spent += shares[-1]
    assert spent == pytest.approx(left)
    assert max(shares) <= left / min(waiting, BOLDEST) * (1 + 1e-9)


def test_no_time_left_is_no_share() -> None:
    assert share(-1.0, 3) == 0.0


@given(
    op=st.sampled_from(["shrink", "expand"]),
    tokens=st.sampled_from([8, 256, 8192]),
    rank=st.sampled_from([8, 16, 64]),
)
def test_each_group_offers_something_else_than_the_default(op: str, tokens: int, rank: int) -> None:
    case = some(op, tokens, rank)
    for group in groups(case):
        assert any(
            sensible(case, DEFAULT | change) and DEFAULT | change != DEFAULT for change in group
        )
        assert all(change.keys() <= DEFAULT.keys() for change in group)


def test_no_block_reaches_beyond_the_sums_end() -> None:
    assert sensible(some(), DEFAULT | {"block_k": 256, "split_k": 16})
    assert not sensible(some(), DEFAULT | {"block_k": 256, "split_k": 64})


def test_the_search_ends_at_sizes_that_only_together_are_fastest() -> None:
    wanted = {"block_k": 128, "split_k": 16, "num_warps": 8, "num_stages": 3}

    def measure(configs: Sequence[Config]) -> list[float]:
        deep = [(c["block_k"], c["split_k"]) == (128, 16) for c in configs]
        rest = [sum(c[name] != value for name, value in wanted.items()) for c in configs]
        return [1.0 + wrong - 0.5 * both for wrong, both in zip(rest, deep, strict=True)]

    assert descend(some(), [DEFAULT], measure) == DEFAULT | wanted


def test_what_cannot_run_is_never_chosen() -> None:
    def measure(configs: Sequence[Config]) -> list[float]:
        return [1.0 if config == DEFAULT else math.inf for config in configs]

    assert descend(some(), [DEFAULT], measure) == DEFAULT


def test_sums_count_a_case_for_each_of_its_layers() -> None:
    took = {some(): [2e-6, 1e-6], cases(LLAMA, (256,), 16)[5]: [3e-6, 2e-6]}
    assert summed(took) == {"default_us": {"256": 8.0}, "tuned_us": {"256": 5.0}}
