"""A card is never promised twice, more memory is never worse, and a refusal has figures."""

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from service.base.card_sharing import (
    OVERHEAD,
    PARTS_OF_CARD,
    Card,
    NoRoom,
    Served,
    Shared,
    least_training,
    served_parts,
    share,
)
from service.base.memory_plan import GIB, Demand, Held, admit
from service.base.model_shape import ModelShape, shape_of
from service.training.spec import LoraSpec
from tests.properties.test_memory_plan import EIGHT_B
from tests.strategies import memory_demands, model_shapes

helds = st.builds(Held, st.sampled_from(["nf4", "none"]), st.just(2), st.just("cuda"))
serveds = st.builds(
    Served,
    quantization=st.sampled_from(["none", "fp8", "nf4"]),
    slots=st.integers(2, 65),
    rank=st.integers(1, 256),
    context=st.integers(128, 131072),
    sequences=st.integers(1, 256),
)
totals = st.integers(2**32, 2**38)
MODEL = shape_of(EIGHT_B)
DEMAND = Demand(targets=frozenset(MODEL.linears), training_slots=16)
SERVED = Served(quantization="none", slots=17, rank=16, context=8192, sequences=36)


def a_card(total: int, used: int = 0, host: int = 2**38) -> Card:
    return Card(total, max(0, total - used), host)


@given(model_shapes, totals, st.integers(0, 2**36), serveds, helds, memory_demands)
@example(MODEL, 24 * GIB, 0, SERVED, Held("nf4", 2, "cuda"), DEMAND)
@example(MODEL, 40 * GIB, 0, SERVED, Held("nf4", 2, "cuda"), DEMAND)
@example(MODEL, 80 * GIB, 0, SERVED, Held("nf4", 2, "cuda"), DEMAND)
def test_what_is_promised_fits_and_what_is_refused_does_not(
    model: ModelShape, total: int, used: int, served: Served, held: Held, demand: Demand
) -> None:
    card = a_card(total, used)
    shared = share(model, card, served, held, demand)
    if isinstance(shared, NoRoom):
        assert shared.needed > card.free or not shared.sleeps
        assert shared.served + shared.training > card.free
        assert f"{card.free / GIB:.2f} GiB are free" in shared.figures
        return
    # As vLLM takes it.
    vllm = -(-round(shared.utilization * PARTS_OF_CARD) * total // PARTS_OF_CARD)
    assert shared.served.total + shared.kv_tokens * model.kv_bytes(2) <= vllm
    assert served.context <= shared.kv_tokens
    assert shared.training_bytes >= least_training(model, held, demand)
    assert shared.training.longest_tokens >= min(demand.enough_tokens, demand.most_tokens)
    assert shared.training.fixed <= shared.training.available < shared.training_bytes
    if shared.together:
        assert vllm + shared.training_bytes <= card.free
    else:
        assert OVERHEAD + shared.training_bytes <= card.free
        at_rest = shared.training.base + shared.training.training_slots
        assert vllm + at_rest <= card.free
        assert not shared.training.keeps_dequantised


def order(shared: Shared | NoRoom) -> int:
    return 0 if isinstance(shared, NoRoom) else 1 + shared.together


@given(model_shapes, totals, st.tuples(*[st.floats(0, 1)] * 2), serveds, helds, memory_demands)
def test_more_free_memory_is_never_worse(
    model: ModelShape,
    total: int,
    shares: tuple[float, float],
    served: Served,
    held: Held,
    demand: Demand,
) -> None:
    less, more = (
        share(model, Card(total, int(total * part), 2**38), served, held, demand)
        for part in sorted(shares)
    )
    assert order(more) >= order(less)
    if isinstance(less, NoRoom) or isinstance(more, NoRoom) or less.together != more.together:
        return
    assert more.kv_tokens >= less.kv_tokens
    # vLLM's share is told in whole parts of the card.
    assert more.training_bytes >= less.training_bytes - total // PARTS_OF_CARD - 1


@given(totals, serveds, st.integers(1, 200))
def test_fewer_and_narrower_slots_leave_more(total: int, served: Served, rank: int) -> None:
    narrow = msgspec.structs.replace(served, rank=min(rank, served.rank), slots=2)
    assert served_parts(MODEL, narrow).total <= served_parts(MODEL, served).total
    held = Held("nf4", 2, "cuda")
    wide = share(MODEL, a_card(total), served, held, DEMAND)
    assert order(share(MODEL, a_card(total), narrow, held, DEMAND)) >= order(wide)


def test_an_8b_base_by_hand() -> None:
    parts = served_parts(MODEL, SERVED)
    assert parts.weights == 2 * 8_030_261_248
    assert parts.adapters == 17 * 2 * 41_943_040
    held = Held("nf4", 2, "cuda")
    large = share(MODEL, a_card(80 * GIB), SERVED, held, DEMAND)
    assert isinstance(large, Shared)
    assert large.together
    assert admit(large.training, LoraSpec(), 16384) is None
    small = share(MODEL, a_card(39 * GIB), SERVED, held, DEMAND)
    assert isinstance(small, Shared)
    assert not small.together
    poor = share(MODEL, a_card(39 * GIB, host=8 * GIB), SERVED, held, DEMAND)
    assert isinstance(poor, NoRoom)
    assert f"or {poor.host / GIB:.2f} GiB of main memory to take turns, of 8.00 GiB" in poor.figures
    none = share(MODEL, a_card(24 * GIB), SERVED, held, DEMAND)
    assert isinstance(none, NoRoom)
    assert none.figures.startswith(f"{none.needed / GIB:.2f} GiB are needed, 24.00 GiB are free")


@given(serveds)
def test_weights_in_fewer_bits_take_less(served: Served) -> None:
    taken = [
        served_parts(MODEL, msgspec.structs.replace(served, quantization=quantization)).weights
        for quantization in ("none", "fp8", "nf4")
    ]
    assert taken == sorted(taken, reverse=True)
