"""Each slot's AdamW is torch's own, and steps alone."""

import pytest

torch = pytest.importorskip("torch")

from service.base.segmented.optimizer import AdamW, SlotAdamW  # noqa: E402
from service.base.segmented.pool import Pool  # noqa: E402
from service.base.segmented.slots import BadShape, Slots  # noqa: E402
from tests.unit.base.segmented.models import apart, spec  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = {"a.q_proj": (16, 24), "b.q_proj": (24, 16)}
SETTINGS = {
    0: AdamW(lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1, clip=0.5, eps=1e-6),
    1: AdamW(lr=1e-3, weight_decay=0.0, clip=None),
    2: AdamW(lr=3e-3, clip=1e6),
}


def held(dtype: torch.dtype = torch.float64) -> tuple[Pool, Slots, SlotAdamW]:
    pool = Pool(SHAPES, capacity=3, rank=8, device=torch.device("cpu"), dtype=dtype)
    slots = Slots(pool)
    for seed, rank in enumerate((8, 3, 5)):
        slots.allocate(spec(rank, ("q_proj",)), seed)
    return pool, slots, SlotAdamW(slots)


def fill(slots: Slots, slot: int, random: torch.Generator) -> None:
    for view in slots.gradients(slot).values():
        view.copy_(torch.randn(view.shape, generator=random, dtype=torch.float64))


def test_a_step_is_torchs_own_with_its_clipping() -> None:
    pool, slots, optimizer = held()
    random = torch.Generator().manual_seed(0)
    twins, theirs = {}, {}
    for slot, wanted in SETTINGS.items():
        twins[slot] = {k: v.clone().requires_grad_() for k, v in slots.weights(slot).items()}
        theirs[slot] = torch.optim.AdamW(
            twins[slot].values(),
            lr=wanted.lr,
            betas=wanted.betas,
            eps=wanted.eps,
            weight_decay=wanted.weight_decay,
        )
    for step in range(20):
        due = {slot: wanted for slot, wanted in SETTINGS.items() if step % (slot + 1) == 0}
        for slot in due:
            fill(slots, slot, random)
            for key, parameter in twins[slot].items():
                parameter.grad = slots.gradients(slot)[key].clone()
        norms = optimizer.step(due)
        for slot, wanted in due.items():
            clip = float("inf") if wanted.clip is None else wanted.clip
            norm = torch.nn.utils.clip_grad_norm_(twins[slot].values(), clip)
            theirs[slot].step()
            assert float(norms[slot]) == pytest.approx(float(norm), rel=1e-12)
    assert not pool.gradients.any()
    for slot, parameters in twins.items():
        for key, view in slots.weights(slot).items():
            assert apart(view, parameters[key].detach()) < 1e-12


def test_slots_that_do_not_step_stay_bit_equal() -> None:
    pool, slots, optimizer = held(torch.float32)
    random = torch.Generator().manual_seed(0)
    for slot in SETTINGS:
        fill(slots, slot, random)
    optimizer.step(SETTINGS)
    fill(slots, 0, random)
    fill(slots, 1, random)
    before = {name: buffer.clone() for name, buffer in pool._buffers.items()}
    optimizer.step({0: SETTINGS[0]})
    assert not torch.equal(pool.weights[0], before["weights"][0])
    for name, buffer in pool._buffers.items():
        assert torch.equal(buffer[1:], before[name][1:])
    assert [optimizer.state(slot).steps for slot in SETTINGS] == [2, 1, 1]


def test_a_restored_slot_goes_on_bit_for_bit() -> None:
    _, slots, optimizer = held(torch.float32)
    _, others, other = held(torch.float32)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        fill(slots, 1, random)
        optimizer.step({1: SETTINGS[0]})
    others.put(1, slots.weights(1))
    other.restore(1, optimizer.state(1))
    for held_slots, held_optimizer in ((slots, optimizer), (others, other)):
        fill(held_slots, 1, torch.Generator().manual_seed(9))
        held_optimizer.step({1: SETTINGS[0]})
    for key, view in slots.weights(1).items():
        assert torch.equal(view, others.weights(1)[key])


def test_moments_of_another_shape_are_refused_whole() -> None:
    pool, slots, optimizer = held()
    fill(slots, 0, torch.Generator().manual_seed(0))
    optimizer.step({0: SETTINGS[0]})
    with pytest.raises(BadShape):
        optimizer.restore(1, optimizer.state(0))
    assert not pool.buffer("exp_avg")[1].any()
