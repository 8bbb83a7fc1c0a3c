"""What the plan says a base and its rows take is what they take."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from service.base.memory_plan import LOGITS_AT_ONCE, NF4, Demand, Held, plan  # noqa: E402
from service.base.model_shape import EXACT, ModelShape, padded, shape_of  # noqa: E402
from service.base.segmented import loss, pool  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from service.training.batch import row  # noqa: E402
from service.training.batch.examples import Encoded, Piece  # noqa: E402
from service.training.batch.resident import Resident  # noqa: E402
from service.training.spec import LoraSpec  # noqa: E402
from tests.unit.base.segmented.models import ALL, ATTENTION  # noqa: E402
from tests.unit.training.real import loaded_base  # noqa: E402

pytestmark = pytest.mark.torch

RANK = 5
EQUAL, UNEQUAL = (32, 32), (40, 24)
TINY: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": None,
}


def model(architecture: Any, dtype: torch.dtype, **changes: Any) -> Any:
    """Make one with transformers' own norms, which compute in fp32."""
    return AutoModelForCausalLM.from_config(architecture(**TINY | changes)).to(dtype).eval()


def saved(
    built: Any, targets: Sequence[str], lengths: tuple[int, ...], *, recompute: bool = False
) -> int:
    """Add up the storages that one forward pass keeps for the backward pass."""
    base = SegmentedBase(built, recompute=recompute)
    slots = base.slots(capacity=1, rank=RANK)
    slot = slots.allocate(LoraSpec(rank=RANK, target_modules=tuple(targets), dropout=0.0), 0)
    batch = base.batch(slots, [Part(slot, lengths)])
    tensors = [*built.parameters(), slots.pool.weights]
    there = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        # Held, so that no address is given twice.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage())
        return tensor

    with (
        base.running(batch),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        hidden = base.hidden(batch, torch.arange(sum(lengths), device=built.device) % 131)
    assert hidden.requires_grad
    base.remove()
    return sum(kept[address].nbytes() for address in kept.keys() - there)


def expected(
    shape: ModelShape, targets: Sequence[str], tokens: int, each: int, *, fused: bool = False
) -> int:
    """Say what the plan counts, less what it counts for safety or outside of the model.

    What comes from the frozen embedding needs no gradient, so that the first norm keeps nothing:
    the last one stands for it.
    """
    places = 2 * shape.head_dim * each
    return tokens * (shape.layers * shape.kept(RANK, targets, each, fused=fused) + places)


@pytest.mark.parametrize("targets", [ALL, ATTENTION, ("down_proj",), ("up_proj", "k_proj")])
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"num_key_value_heads": 2, "intermediate_size": 96}),
        (MistralConfig, {"num_hidden_layers": 1, "num_key_value_heads": 1, "sliding_window": None}),
        (Qwen3Config, {"head_dim": 32}),
    ],
)
def test_what_is_kept_for_the_backward_pass_is_what_is_counted(
    architecture: Any, changes: dict[str, Any], targets: Sequence[str]
) -> None:
    built = model(architecture, torch.float32, **changes)
    shape = shape_of(built.config.to_dict())
    assert saved(built, targets, EQUAL) == expected(shape, targets, sum(EQUAL), 4)


def test_examples_of_unequal_lengths_have_attentions_output_twice_on_a_cpu() -> None:
    built = model(LlamaConfig, torch.float32)
    shape = shape_of(built.config.to_dict())
    twice = shape.layers * shape.queries * 4 * sum(UNEQUAL)
    assert saved(built, ALL, UNEQUAL) == expected(shape, ALL, sum(UNEQUAL), 4) + twice


def test_with_recomputation_nothing_of_a_layer_is_kept_but_its_input() -> None:
    built = model(LlamaConfig, torch.float32)
    shape = shape_of(built.config.to_dict())
    inputs, last_norm = shape.layers * shape.hidden * 4, EXACT * (shape.hidden + 1)
    assert saved(built, ALL, EQUAL, recompute=True) == sum(EQUAL) * (inputs + last_norm)
    kept, recomputed = (
        shape.per_token(RANK, ALL, 4, recomputes=recomputes, fused=False)
        for recomputes in (False, True)
    )
    layer, less = shape.kept(RANK, ALL, 4, fused=False), kept - recomputed
    assert less == (shape.layers - 1) * layer - shape.layers * shape.hidden * 4


@pytest.mark.parametrize("targets", [ALL, ATTENTION])
def test_in_bf16_norms_and_short_attention_keep_fp32_and_all_else_half_of_it(
    targets: Sequence[str],
) -> None:
    built = model(LlamaConfig, torch.bfloat16, num_key_value_heads=2)
    shape = shape_of(built.config.to_dict())
    assert saved(built, targets, EQUAL) == expected(shape, targets, sum(EQUAL), 2)


def peak(run: Callable[[], object]) -> int:
    """Tell the most bytes that were in use besides what was there before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_row_takes_at_its_peak_what_is_counted(recompute: bool) -> None:
    built = model(LlamaConfig, torch.float32, num_hidden_layers=6, intermediate_size=224)
    shape = shape_of(built.config.to_dict())
    base = SegmentedBase(built, recompute=recompute)
    resident = Resident(base, 1, RANK, torch.float32)
    slot = resident.allocate(LoraSpec(rank=RANK, target_modules=ALL, dropout=0.0), 0)
    one = Encoded(torch.arange(256) % 131, torch.arange(255), torch.arange(1, 256) % 131)
    pieces = {slot: Piece([one] * 2, (1, 2), 1 / 510)}
    row.learn(resident, pieces)
    measured = peak(lambda: row.learn(resident, pieces))
    counted = shape.per_token(RANK, ALL, 4, recomputes=recompute, fused=False) * 512
    # What is counted for dropout, and for what others work with, is much beside so few layers.
    assert 0.8 * counted < measured <= counted
    base.remove()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("targets", [ALL, ATTENTION, ("down_proj",)])
@pytest.mark.parametrize("lengths", [(256, 256), (320, 192)])
def test_on_a_gpu_kernels_keep_what_they_are_given(
    targets: Sequence[str], lengths: tuple[int, ...]
) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1280, "head_dim": 128}
    built = model(LlamaConfig, torch.bfloat16, num_key_value_heads=2, **sizes).to("cuda")
    shape = shape_of(built.config.to_dict())
    counted = expected(shape, targets, sum(lengths), 2, fused=True)
    # Attention's random state and boundaries are a few bytes for each layer.
    assert saved(built, targets, lengths) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_base_takes_what_its_config_says(quantization: Any) -> None:
    loaded = loaded_base(quantization)
    shape = shape_of(loaded.description.config)
    demand = Demand(targets=frozenset(shape.linears))
    each = loaded.model.dtype.itemsize
    planned = plan(shape, Held(quantization, each, loaded.device), demand, 2**34)
    held = sum(tensor.nbytes for tensor in loaded.model.parameters())
    for module in loaded.model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    # A small matrix' last group of second scales is not full.
    assert planned.base == pytest.approx(held, rel=0.001)
    assert shape.linear_parameters + shape.other_parameters == sum(
        tensor.numel() for tensor in loaded_base("none").model.parameters()
    )


def test_slots_take_what_the_pool_takes() -> None:
    built = model(LlamaConfig, torch.float32, num_key_value_heads=2)
    shape = shape_of(built.config.to_dict())
    base = SegmentedBase(built)
    held = base.slots(capacity=3, rank=RANK).pool
    names = ("weights", "gradients", "exp_avg", "exp_avg_sq")
    taken = sum(held.buffer(name).nbytes for name in names)
    demand = Demand(targets=frozenset(ALL), training_slots=3, training_rank=RANK)
    planned = plan(shape, Held("none", 4, "cpu"), demand, 2**34)
    assert planned.training_slots == taken
    assert held.padded_rank == padded(RANK)
    base.remove()


def test_figures_are_those_of_the_modules_they_speak_of() -> None:
    assert LOGITS_AT_ONCE == loss._NUMBERS_AT_ONCE
    assert padded(1) == pool.MULTIPLE
    assert 0.5 < NF4 < 0.52
