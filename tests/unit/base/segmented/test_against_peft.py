"""One pass with many adapters says what PEFT says of each one alone."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from peft import PeftModel  # noqa: E402

from service.base.lora_files import read_lora  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from tests.unit.base.segmented.models import (  # noqa: E402
    ALL,
    ATTENTION,
    CONFIGS,
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

SHAPES = (
    spec(3),
    spec(8, ATTENTION, rslora=True),
    spec(5, ("down_proj", "q_proj")),
    spec(1, ("layers.1.self_attn.v_proj", "up_proj"), alpha=16),
)
LENGTHS = ((9, 2), (7,), (3, 3, 8), (5, 6))


def mixed(
    model: object, dtype: torch.dtype = torch.float64
) -> tuple[OneSet, dict[int, dict[str, torch.Tensor]]]:
    base = OneSet(model, capacity=6, rank=8, dtype=dtype)
    slots = [base.slots.allocate(shape, seed) for seed, shape in enumerate(SHAPES)]
    return base, {slot: randomise(base, slot, seed=slot) for slot in slots}


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("lengths", [LENGTHS, ((4, 4),) * 4], ids=["ragged", "equal"])
def test_logits_losses_and_gradients_are_those_of_each_adapter_alone(architecture, lengths) -> None:
    base, weights = mixed(make(architecture))
    parts = [Part(slot, lengths[slot]) for slot in (2, 0, 3, 1)]
    batch = base.batch([Part(None, (4, 3)), *parts])
    ids = random_ids(batch)
    logits, _, means = forward_backward(base, batch, ids)
    held = {slot: (base.slots[slot], base.slots.gradients(slot)) for slot in weights}
    base.remove()
    at = 0
    for part, mean in zip(batch.layout.adapted, means, strict=False):
        here = slice(at, at + part.tokens)
        at += part.tokens
        shape, gradients = held[part.slot]
        theirs = by_peft(base.model, shape, weights[part.slot], part.lengths, ids[here])
        assert apart(logits[here], theirs[0]) < 1e-9
        assert mean == pytest.approx(theirs[1], rel=1e-9)
        assert gradients.keys() == theirs[2].keys()
        assert all(apart(gradients[key], theirs[2][key]) < 1e-9 for key in gradients)
    plain = torch.cat(
        [
            base.model(input_ids=example[None]).logits[0]
            for example in ids[at:].split(batch.layout.parts[-1].lengths)
        ]
    )
    assert apart(logits[at:], plain) < 1e-9


def test_a_slot_does_not_see_who_shares_its_batch() -> None:
    base, _ = mixed(make())
    alone = base.batch([Part(1, LENGTHS[1])])
    ids = random_ids(alone)
    own, _, _ = forward_backward(base, alone, ids)
    gradients = {key: view.clone() for key, view in base.slots.gradients(1).items()}
    base.pool.gradients.zero_()
    batch = base.batch([Part(slot, LENGTHS[slot]) for slot in range(4)])
    filled = random_ids(batch, seed=6)
    start = sum(LENGTHS[0])
    filled[start : start + len(ids)] = ids
    logits, _, _ = forward_backward(base, batch, filled)
    assert apart(logits[start : start + len(ids)], own) < 1e-12
    for key, view in base.slots.gradients(1).items():
        assert apart(view, gradients[key]) < 1e-9


def test_what_is_saved_loads_in_stock_peft_and_comes_back(tmp_path: Path) -> None:
    base, _ = mixed(make(dtype=torch.float32), torch.float32)
    batch = base.batch([Part(slot, LENGTHS[slot]) for slot in range(4)])
    ids = random_ids(batch)
    logits, _, _ = forward_backward(base, batch, ids)
    for slot in range(4):
        base.slots.save(slot, tmp_path / str(slot), "tiny")
    weights = {key: view.clone() for key, view in base.slots.weights(1).items()}
    files = read_lora(tmp_path / "1", base.shapes)
    again = base.slots.load(files, dropout=0.1)
    assert base.slots[again].dropout == 0.1
    assert base.slots[again].layers == base.slots[1].layers
    assert base.slots[again].scaling == base.slots[1].scaling
    assert all(torch.equal(view, weights[k]) for k, view in base.slots.weights(again).items())
    base.remove()
    at = 0
    for slot in range(4):
        twin = PeftModel.from_pretrained(base.model, tmp_path / str(slot))
        for length in LENGTHS[slot]:
            theirs = twin(input_ids=ids[at : at + length][None]).logits[0]
            assert apart(logits[at : at + length], theirs.detach()) < 1e-5
            at += length
        twin.unload()


def test_a_new_adapter_starts_as_peft_starts_one() -> None:
    base = OneSet(make(), capacity=2, rank=8)
    base.slots.allocate(spec(6), seed=3)
    other = base.slots.allocate(spec(6), seed=3)
    for key, view in base.slots.weights(0).items():
        assert torch.equal(view, base.slots.weights(other)[key])
        if "lora_B" in key:
            assert not view.any()
        else:
            bound = view.shape[1] ** -0.5  # kaiming_uniform_ with a = sqrt(5)
            assert 0.8 * bound < view.abs().max() <= bound
    assert len(base.slots.weights(0)) == 2 * 2 * len(ALL)
