"""Plans use what there is, never more, and refuse only what cannot be."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.memory_plan import Demand, Held, MemoryPlan, admit, by_part, plan
from service.base.model_shape import ModelShape, UnknownShape, shape_of
from service.training.spec import LoraSpec
from tests.strategies import memory_demands, model_shapes

EIGHT_B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
H100 = 78 * 2**30
helds = st.builds(
    Held,
    st.sampled_from(["nf4", "none"]),
    st.sampled_from([2, 4]),
    st.sampled_from(["cpu", "cuda"]),
)
frees = st.integers(2**28, 2**38)
loras = st.builds(
    LoraSpec,
    rank=st.integers(1, 256),
    target_modules=st.sets(
        st.sampled_from(["q_proj", "v_proj", "up_proj", "down_proj"]), min_size=1
    ).map(lambda names: tuple(sorted(names))),
)


def taken(planned: MemoryPlan) -> int:
    each = planned.recomputed_per_token if planned.recomputes else planned.kept_per_token
    return planned.fixed + planned.tokens_at_once * each


@given(model_shapes, helds, memory_demands, frees)
def test_a_plan_that_trains_stays_within_what_is_available(
    model: ModelShape, held: Held, demand: Demand, free: int
) -> None:
    planned = plan(model, held, demand, free)
    assert planned.available < free
    assert 0 <= planned.tokens_at_once <= demand.most_tokens
    assert planned.kv_tokens <= (demand.kv_tokens if demand.serving_slots else 0)
    if planned.tokens_at_once:
        assert taken(planned) <= planned.available
        each = taken(planned) - planned.fixed
        # And there is no room for one token more.
        if planned.tokens_at_once < demand.most_tokens:
            assert taken(planned) + each // planned.tokens_at_once > planned.available


@given(model_shapes, helds, memory_demands, frees, st.integers(0, 2**34))
def test_more_memory_is_never_worse(
    model: ModelShape, held: Held, demand: Demand, free: int, more: int
) -> None:
    small = plan(model, held, demand, free)
    # Less than a token of the cache could give that token, and take from rows what it lacks.
    large = plan(model, held, demand, free + more + 2 * small.kv_per_token)
    assert large.kv_tokens >= small.kv_tokens
    wanted = min(small.tokens_at_once, demand.enough_tokens)
    assert large.tokens_at_once >= wanted
    assert min(large.longest_tokens, demand.longest_tokens) >= min(
        small.longest_tokens, demand.longest_tokens
    )
    if small.tokens_at_once >= demand.enough_tokens:
        # Whoever had enough does not compute more than before.
        assert large.recomputes <= small.recomputes


@given(model_shapes, helds, memory_demands, frees, loras, st.integers(1, 40_000))
def test_what_is_refused_does_not_fit_and_what_is_longer_neither(
    model: ModelShape, held: Held, demand: Demand, free: int, lora: LoraSpec, longest: int
) -> None:
    planned = plan(model, held, demand, free)
    refusal = admit(planned, lora, longest)
    if refusal is None:
        assert longest == 1 or admit(planned, lora, longest - 1) is None
        return
    assert refusal.needed > refusal.available == planned.available
    assert admit(planned, lora, longest + 1) is not None
    if refusal.cause == "adapter":
        assert admit(planned, lora, 1) is not None


@given(model_shapes, helds, memory_demands, frees, loras)
def test_a_row_that_was_planned_is_admitted(
    model: ModelShape, held: Held, demand: Demand, free: int, lora: LoraSpec
) -> None:
    planned = plan(model, held, demand, free)
    fits = lora.rank <= demand.training_rank and set(lora.target_modules) <= demand.targets
    if planned.tokens_at_once and demand.training_slots and fits:
        assert admit(planned, lora, planned.tokens_at_once) is None


def test_an_example_that_recomputing_would_hold_is_admitted() -> None:
    """Rows are quick as long as they may be, and one long example does without that."""
    model = shape_of(EIGHT_B)
    demand = Demand(targets=frozenset(model.linears), training_slots=16, longest_tokens=16384)
    planned = plan(model, Held("none", 2, "cuda"), demand, 56 * 2**30)
    assert not planned.recomputes
    assert demand.enough_tokens <= planned.kept_tokens < 16384
    assert [planned.recomputes_row(n) for n in (planned.kept_tokens, 16384)] == [False, True]
    assert admit(planned, LoraSpec(), 16384) is None
    assert by_part(planned, LoraSpec(), 16384).total <= planned.available
    tight = plan(model, Held("none", 2, "cuda"), demand, 30 * 2**30)
    assert admit(tight, LoraSpec(), 16384) is not None


def test_weights_are_not_kept_twice_where_the_longest_example_would_not_fit_then() -> None:
    model = shape_of(EIGHT_B)
    demand = Demand(targets=frozenset(model.linears), training_slots=16)
    free = 35 * 2**30
    kept = plan(model, Held("nf4", 2, "cuda"), demand, free)
    assert kept.keeps_dequantised
    assert demand.enough_tokens <= kept.longest_tokens < 16384
    long = msgspec.structs.replace(demand, longest_tokens=16384)
    planned = plan(model, Held("nf4", 2, "cuda"), long, free)
    assert not planned.keeps_dequantised
    assert planned.longest_tokens >= 16384


def test_the_more_there_is_to_hold_the_more_is_computed_again() -> None:
    """An 8B base in NF4 on 78 GiB: the figures of a plan, by hand."""
    model = shape_of(EIGHT_B)
    assert model.linear_parameters + model.other_parameters == 8_030_261_248
    few = Demand(targets=frozenset(model.linears), training_slots=16)
    planned = plan(model, Held("nf4", 2, "cuda"), few, H100)
    assert (planned.keeps_dequantised, planned.recomputes) == (True, False)
    assert planned.kv_per_token == 131_072
    assert planned.cache == 2 * model.linear_parameters == 13 * 2**30
    many = msgspec.structs.replace(few, training_slots=64)
    planned = plan(model, Held("nf4", 2, "cuda"), many, H100)
    assert (planned.keeps_dequantised, planned.recomputes) == (False, False)
    assert planned.training_slots == 64 * 16 * 41_943_040
    more = msgspec.structs.replace(few, training_slots=80)
    planned = plan(model, Held("nf4", 2, "cuda"), more, H100)
    assert (planned.keeps_dequantised, planned.recomputes) == (False, True)
    assert planned.tokens_at_once == more.most_tokens


def test_a_job_that_cannot_fit_is_refused_with_the_figures() -> None:
    model = shape_of(EIGHT_B)
    demand = Demand(targets=frozenset(model.linears), training_slots=8)
    planned = plan(model, Held("none", 2, "cuda"), demand, 40 * 2**30)
    assert admit(planned, LoraSpec(), 2048) is None
    example = admit(planned, LoraSpec(), 40_000)
    assert example is not None
    assert (example.cause, planned.recomputes) == ("example", True)
    assert example.figures == (f"{example.needed / 2**30:.2f} GiB are needed, 36.00 are available")
    tight = plan(model, Held("none", 2, "cuda"), demand, 30 * 2**30)
    assert admit(tight, LoraSpec(), 1024) is None
    adapter = admit(tight, LoraSpec(rank=256, target_modules=tuple(model.linears)), 1)
    assert adapter is not None
    assert adapter.cause == "adapter"


@pytest.mark.parametrize(
    "changes", [{"hidden_size": None}, {"num_local_experts": 8}, {"n_routed_experts": 64}]
)
def test_a_config_of_another_kind_is_not_guessed_at(changes: dict[str, int | None]) -> None:
    config = {k: v for k, v in (EIGHT_B | changes).items() if v is not None}
    with pytest.raises(UnknownShape):
        shape_of(config)
