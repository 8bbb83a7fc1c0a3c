"""What the segmented linear does with padding, poison, dropout, 4 bits and slots that are free."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bitsandbytes.nn import Linear4bit  # noqa: E402
from torch import Tensor  # noqa: E402

from service.base.segmented import batch as batches  # noqa: E402
from service.base.segmented.inject import UnfitBase  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from service.base.segmented.optimizer import AdamW, SlotAdamW  # noqa: E402
from service.base.segmented.products import MOST_GROUPS, Grouped, Present  # noqa: E402
from service.base.segmented.slots import BadShape, NoFreeSlot  # noqa: E402
from tests.unit.base.segmented.models import (  # noqa: E402
    ALL,
    ATTENTION,
    OneSet,
    apart,
    by_peft,
    forward_backward,
    make,
    random_ids,
    randomise,
    spec,
)

pytestmark = pytest.mark.torch


def poisoned(x: Tensor, w: Tensor, *, offs: Tensor) -> Tensor:
    """Do what `grouped_mm` does on a GPU, with NaN for what it leaves uninitialised."""
    starts = [0, *offs.tolist()]
    spans = [slice(a, b) for a, b in pairwise(starts)]
    if w.dim() == 2:
        return torch.stack([x[:, span] @ w[span] for span in spans])
    out = x.new_full((x.shape[0], w.shape[2]), torch.nan)
    for span, matrix in zip(spans, w, strict=True):
        out[span] = x[span] @ matrix
    return out


def grouped(sizes: tuple[int, ...], slots: tuple[int, ...], device: torch.device) -> Grouped:
    return Grouped(batches.products._ends(sizes, device), Present(slots, device), poisoned)


def run(choose: Callable[..., Any] | None, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    if choose is not None:
        monkeypatch.setattr(batches.products, "choose", choose)
    base = OneSet(make(), capacity=4, rank=8, dtype=torch.float64)
    for seed, shape in enumerate((spec(3, dropout=0.3), spec(8, ATTENTION))):
        randomise(base, base.slots.allocate(shape, seed), seed)
    parts = [Part(0, (5,), dropout_seed=9), Part(1, (3, 4)), Part(None, (6,))]
    batch = base.batch(parts)
    logits, losses, _ = forward_backward(base, batch, random_ids(batch))
    return [logits, losses.nll, base.pool.gradients]


def test_memory_past_the_last_adapter_reaches_nothing(monkeypatch) -> None:
    plain = run(None, monkeypatch)
    for mine, reference in zip(run(grouped, monkeypatch), plain, strict=True):
        assert torch.isfinite(mine).all()
        assert apart(mine, reference) < 1e-12


def test_too_many_adapters_for_one_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match="1023"):
        Grouped(torch.zeros(MOST_GROUPS + 1, dtype=torch.int32), Present((), torch.device("cpu")))


def test_padding_stays_exactly_zero_over_many_steps() -> None:
    base = OneSet(make(), capacity=3, rank=8)
    base.slots.allocate(spec(3, ATTENTION, dropout=0.2), 1)
    base.slots.allocate(spec(8, ("down_proj",)), 2)
    optimizer = SlotAdamW(base.slots)
    settings = AdamW(lr=0.1, weight_decay=0.1, clip=1.0)
    for step in range(30):
        batch = base.batch([Part(0, (6,), dropout_seed=step), Part(1, (4, 5))])
        forward_backward(base, batch, random_ids(batch, seed=step))
        optimizer.step({0: settings, 1: settings})
    for slot in (0, 1):
        used = sum(view.numel() for view in base.slots.weights(slot).values())
        for name in ("weights", "exp_avg", "exp_avg_sq"):
            row = base.pool.buffer(name)[slot]
            assert int(row.count_nonzero()) <= used
            for view in base.slots.views(base.pool.buffer(name), slot).values():
                view.zero_()
            assert not row.any()


def test_dropout_depends_on_the_slots_own_seed_only() -> None:
    base = OneSet(make(), capacity=3, rank=8, dtype=torch.float64)
    for seed in (0, 1):
        randomise(base, base.slots.allocate(spec(4, dropout=0.4), seed), seed)

    def logits(*parts: Part) -> Tensor:
        batch = base.batch(parts)
        return forward_backward(base, batch, random_ids(batch)[: batch.layout.tokens])[0]

    alone = logits(Part(0, (4, 5), 7))
    assert torch.equal(alone, logits(Part(0, (4, 5), 7)))
    assert apart(logits(Part(0, (4, 5), 7), Part(1, (3,), 8))[:9], alone) < 1e-12
    assert apart(logits(Part(0, (4, 5), 8)), alone) > 0.01
    assert apart(logits(Part(0, (4, 5))), alone) > 0.01


def test_gradients_are_the_losses_derivatives_under_dropout() -> None:
    base = OneSet(make(), capacity=1, rank=4, dtype=torch.float64)
    randomise(base, base.slots.allocate(spec(2, dropout=0.5), 0), 0)
    batch = base.batch([Part(0, (6, 3), dropout_seed=3)])
    ids = random_ids(batch)
    forward_backward(base, batch, ids)
    direction = torch.randn(base.pool.row, dtype=torch.float64) * base.pool.weights[0].ne(0)
    slope = float(base.pool.gradients[0] @ direction)
    values = []
    for sign in (1, -1):
        base.pool.weights[0].add_(direction, alpha=sign * 1e-6)
        values.append(forward_backward(base, batch, ids)[1].total.item())
        base.pool.weights[0].sub_(direction, alpha=sign * 1e-6)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_gradients_of_several_batches_add_up() -> None:
    base = OneSet(make(), capacity=1, rank=4, dtype=torch.float64)
    randomise(base, base.slots.allocate(spec(2, dropout=0.5), 0), 0)
    batch = base.batch([Part(0, (6, 3), dropout_seed=3)])
    forward_backward(base, batch, random_ids(batch))
    once = base.pool.gradients.clone()
    forward_backward(base, batch, random_ids(batch))
    assert apart(base.pool.gradients, 2 * once) < 1e-12


def test_layers_that_are_computed_again_give_the_same_gradients_from_less_memory() -> None:
    kept, gradients = [], []
    for recompute in (False, True):
        model = make()
        training = [module.training for module in model.modules()]
        base = OneSet(model, capacity=1, rank=4, dtype=torch.float64, recompute=recompute)
        randomise(base, base.slots.allocate(spec(2, dropout=0.5), 0), 0)
        batch = base.batch([Part(0, (6, 3), dropout_seed=3)])
        sizes = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            forward_backward(base, batch, random_ids(batch))
        kept.append(sum(sizes))
        gradients.append(base.pool.gradients.clone())
        base.remove()
        assert not model.is_activation_checkpointing
        assert [module.training for module in model.modules()] == training
    assert apart(gradients[1], gradients[0]) < 1e-12
    assert kept[1] < kept[0] / 4


def test_somebody_else_has_a_turn_within_a_pass_and_changes_nothing() -> None:
    base = OneSet(make(), capacity=1, rank=4, dtype=torch.float64)
    randomise(base, base.slots.allocate(spec(4, dropout=0.5), 0), 0)
    others = base.base.slots(capacity=2, rank=8, dtype=torch.float64)
    others.allocate(spec(8), 1)
    part, ids = Part(0, (6, 3), dropout_seed=3), torch.arange(9)
    answers: list[Tensor] = []

    def turn() -> None:
        theirs = base.base.batch(others, [Part(0, (5,)), Part(None, (2,))])
        with torch.inference_mode(), base.running(theirs):
            answers.append(base.logits(base.hidden(theirs, torch.arange(7))))

    turn()
    results = []
    for pause in (lambda: None, turn):
        batch = base.base.batch(base.slots, [part], pause=pause)
        logits, _, _ = forward_backward(base, batch, ids)
        results.append((logits, base.pool.gradients.clone()))
        base.pool.gradients.zero_()
    # Once before, then in each layer there and back, and once in the loss.
    assert len(answers) == 1 + 2 * 2 * len(ALL) + 2
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def in_four_bits(model: Any) -> Any:
    for name, linear in list(model.named_modules()):
        if type(linear) is torch.nn.Linear and not name.endswith("lm_head"):
            sizes = (linear.in_features, linear.out_features)
            four = Linear4bit(*sizes, bias=linear.bias is not None, quant_type="nf4")
            four.load_state_dict(linear.state_dict())
            four.compute_dtype = torch.float32
            four.support_avx512bf16_for_cpu = False
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, four.to("cpu"))
    return model


@pytest.mark.parametrize("cache", [False, True])
def test_a_base_in_four_bits_gives_pefts_logits_and_gradients(cache) -> None:
    model = in_four_bits(make("qwen2", torch.float32, hidden_size=64, intermediate_size=128))
    base = OneSet(model, capacity=2, rank=8, cache_weights=cache)
    weights = [randomise(base, base.slots.allocate(spec(r), r), r) for r in (4, 8)]
    batch = base.batch([Part(0, (5, 4)), Part(1, (7,))])
    ids = random_ids(batch)
    logits, _, _ = forward_backward(base, batch, ids)
    held = [(base.slots[slot], base.slots.gradients(slot)) for slot in (0, 1)]
    base.remove()
    for slot, here in ((0, slice(0, 9)), (1, slice(9, 16))):
        shape, gradients = held[slot]
        lengths = batch.layout.parts[slot].lengths
        theirs = by_peft(model, shape, weights[slot], lengths, ids[here])
        assert apart(logits[here], theirs[0]) < 1e-4
        assert all(apart(gradients[key], theirs[2][key]) < 1e-4 for key in gradients)


def test_weights_that_would_repack_themselves_are_refused() -> None:
    model = in_four_bits(make("llama", torch.float32, hidden_size=64, intermediate_size=128))
    model.model.layers[1].mlp.up_proj.support_avx512bf16_for_cpu = True
    with pytest.raises(UnfitBase, match="up_proj"):
        OneSet(model, capacity=1, rank=8)


def test_the_model_comes_back_without_a_trace() -> None:
    model = make()
    model.model.norm.weight.requires_grad_(False)
    modules = dict(model.named_modules())
    required = [p.requires_grad for p in model.parameters()]
    state = set(model.state_dict())
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    before = model(input_ids=ids).logits
    base = OneSet(model, capacity=2, rank=4)
    assert not any(p.requires_grad for p in model.parameters())
    randomise(base, base.slots.allocate(spec(4), 0), 0)
    base.remove()
    assert dict(model.named_modules()) == modules
    assert [p.requires_grad for p in model.parameters()] == required
    assert set(model.state_dict()) == state
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids).logits, before)


def test_nothing_is_answered_outside_of_a_batch() -> None:
    base = OneSet(make(), capacity=2, rank=4)
    base.slots.allocate(spec(4), 0)
    batch = base.batch([Part(0, (3,))])
    with pytest.raises(RuntimeError, match="no batch"):
        base.hidden(batch, random_ids(batch))
    with pytest.raises(KeyError):
        base.batch([Part(1, (3,))])
    with base.running(batch), pytest.raises(ValueError, match="not the batch"):
        base.hidden(base.batch([Part(0, (4,))]), torch.tensor([1, 2, 3, 4]))


def test_nothing_of_an_adapter_stays_in_a_slot_that_is_freed() -> None:
    base = OneSet(make(), capacity=1, rank=4)
    base.slots.allocate(spec(4), 0)
    with pytest.raises(NoFreeSlot):
        base.slots.allocate(spec(4), 1)
    batch = base.batch([Part(0, (5,))])
    optimizer = SlotAdamW(base.slots)
    forward_backward(base, batch, random_ids(batch))
    optimizer.step({0: AdamW(lr=0.1)})
    forward_backward(base, batch, random_ids(batch))
    base.slots.free(0)
    assert base.slots.taken == frozenset()
    assert not any(buffer.any() for buffer in base.pool._buffers.values())
    assert base.slots.allocate(spec(2), 1) == 0
    assert optimizer.state(0).steps == 0


@pytest.mark.parametrize(
    "changes", [{"rank": 9}, {"rank": 0}, {"dropout": 1.0}, {"target_modules": ("lm_head",)}]
)
def test_a_shape_that_does_not_fit_takes_no_slot(changes) -> None:
    base = OneSet(make(), capacity=1, rank=8)
    with pytest.raises(BadShape):
        base.slots.allocate(spec(**{"rank": 4, **changes}), 0)
    assert not base.slots.taken


def test_slots_can_be_for_some_layers_only() -> None:
    base = OneSet(make(), capacity=1, rank=8, targets=ATTENTION)
    with pytest.raises(BadShape, match="up_proj"):
        base.slots.allocate(spec(4), 0)
    with pytest.raises(UnfitBase, match="c_attn"):
        OneSet(make(), capacity=1, rank=8, targets=["c_attn"])
