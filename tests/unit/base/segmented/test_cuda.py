"""On a GPU, in bf16: the kernels that a CPU does not run, against exact arithmetic."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from service.base.segmented.attention import packed_attention  # noqa: E402
from service.base.segmented.batch import Batch  # noqa: E402
from service.base.segmented.dropout import Dropout  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from service.base.segmented.optimizer import AdamW, SlotAdamW  # noqa: E402
from service.base.segmented.products import Grouped, Present, _ends, choose  # noqa: E402
from tests.unit.base.segmented.models import ALL, OneSet, apart, make, spec  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

NEAR = 2e-2
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 1000}


def trained(device: str, dtype: torch.dtype, lengths: Any, **changes: Any) -> Any:
    """Give logits, losses and gradients of the same three adapters and tokens on a device."""
    model = make("qwen2", torch.float64, **SIZES, **changes).to(device, dtype)
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    base = OneSet(model, capacity=5, rank=16, dtype=exact)
    shapes = (spec(16, dropout=0.2), spec(5), spec(8, ALL[:4]))
    slots = [base.slots.allocate(shape, seed) for seed, shape in enumerate(shapes)]
    base.slots.free(slots[0])
    slots = [*slots[1:], base.slots.allocate(shapes[0], 3), base.slots.allocate(shapes[1], 4)]
    for slot in slots:
        random = torch.Generator().manual_seed(slot)
        views = base.slots.weights(slot)
        drawn = {k: 0.05 * torch.randn(v.shape, generator=random) for k, v in views.items()}
        base.slots.put(slot, drawn)
    parts = [Part(slot, n, dropout_seed=slot) for slot, n in zip((0, 1, 3), lengths, strict=True)]
    batch = base.batch([*parts, Part(None, (9,))])
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 1000, (batch.layout.tokens,), generator=random).to(device)
    rows = torch.arange(0, batch.layout.tokens - 1, device=device)
    with base.running(batch):
        hidden = base.hidden(batch, ids)
        losses = base.loss(hidden, rows, ids[1:], torch.full((len(rows),), 0.1, device=device))
        losses.total.backward()
    optimizer = SlotAdamW(base.slots)
    gradients = {s: {k: v.clone() for k, v in base.slots.gradients(s).items()} for s in slots}
    optimizer.step({slot: AdamW(lr=1e-3, clip=0.1) for slot in (0, 1, 3)})
    return base, base.logits(hidden.detach()), losses, gradients


@pytest.mark.parametrize("lengths", [((40, 30), (7,), (64, 1)), ((32, 32), (64,), (64,))])
@pytest.mark.parametrize("window", [None, 16])
def test_bf16_on_the_gpu_is_as_near_to_float64_as_bf16_on_the_cpu(lengths, window) -> None:
    changes = {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 1}
    changes = changes if window else {}
    exact = trained("cpu", torch.float64, lengths, **changes)
    usual = distances(trained("cpu", torch.bfloat16, lengths, **changes), exact)
    ours = trained("cuda", torch.bfloat16, lengths, **changes)
    for name, distance in distances(ours, exact).items():
        assert distance < 1.5 * usual[name] + NEAR / 4, name
    assert not any(view.any() for view in ours[3][2].values())
    assert torch.isfinite(ours[0].pool.weights).all()


def distances(found: Any, exact: Any) -> dict[str, float]:
    _, logits, losses, gradients = found
    apart_by = {
        "logits": apart(logits.cpu(), exact[1]),
        "losses": apart(losses.nll.cpu(), exact[2].nll.detach()),
    }
    for slot in (0, 1, 3):
        # Together: those of A are nearly nothing where B is.
        mine, theirs = (
            torch.cat([each[slot][key].flatten().cpu().double() for key in exact[3][slot]])
            for each in (gradients, exact[3])
        )
        apart_by[f"gradient {slot}"] = apart(mine, theirs)
    return apart_by


@pytest.mark.parametrize("sizes", [[3, 70, 1, 130], [64, 64], [5]])
def test_grouped_products_are_exact_enough_and_leave_nothing_unwritten(sizes) -> None:
    """They stand in where there is no Triton; `test_triton.py` tests the others."""
    random = torch.Generator().manual_seed(0)
    device, slots = torch.device("cuda"), range(len(sizes))
    x, y = (torch.randn(sum(sizes), n, generator=random) for n in (256, 64))
    w = torch.randn(len(sizes), 256, 64, generator=random)
    x, y, w = (t.to(device, torch.bfloat16) for t in (x, y, w))
    ours = Grouped(_ends(sizes, device), Present(slots, device))
    exact = choose(sizes, slots, torch.device("cpu"))
    wide = [t.cpu().double() for t in (x, w, y)]
    torch.full((2**26,), torch.nan, device=device)  # what a new tensor is likely to hold
    assert apart(ours.times(x, w).cpu(), exact.times(*wide[:2])) < NEAR
    assert apart(ours.times(y, w.mT).cpu(), exact.times(wide[2], wide[1].mT)) < NEAR
    into, sums = torch.zeros_like(w), torch.zeros_like(wide[1])
    ours.add_outer(into, x, y)
    exact.add_outer(sums, wide[0], wide[2])
    assert apart(into.cpu(), sums) < NEAR
    out = y.clone()
    ours.add_times(out, x, w)
    exact.add_times(wide[2], *wide[:2])
    assert apart(out.cpu(), wide[2]) < NEAR


def test_dropout_masks_are_those_of_the_cpu() -> None:
    parts = [Part(0, (50,), 5), Part(1, (70,), 6)]
    x = torch.randn(120, 256)
    masks = []
    for device in ("cpu", "cuda"):
        dropout = Dropout(parts, [0.3, 0.0], 3, torch.device(device), torch.float32)
        masks.append([dropout.apply(x.to(device), layer).cpu() for layer in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_shared_key_heads_and_their_gradients() -> None:
    lengths = (5, 33, 1)
    base = OneSet(make(**SIZES).to("cuda", torch.bfloat16), capacity=1, rank=8)
    batch: Batch = base.batch([Part(None, lengths)])
    random = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(lengths), 64) for heads in (8, 2, 2)]
    exact = [torch.randn(s, generator=random).bfloat16().double().requires_grad_() for s in shapes]
    ours = [t.detach().to("cuda", torch.bfloat16).requires_grad_() for t in exact]
    out, _ = packed_attention(SimpleNamespace(layer_idx=0), *ours, None, packing=batch, scaling=0.2)
    pieces = zip(*(t.split(lengths, dim=2) for t in exact), strict=True)
    reference = torch.cat(
        [
            functional.scaled_dot_product_attention(
                *qkv, is_causal=True, scale=0.2, enable_gqa=True
            ).transpose(1, 2)
            for qkv in pieces
        ],
        dim=1,
    )
    out.backward(torch.ones_like(out))
    reference.backward(torch.ones_like(reference))
    assert apart(out.cpu(), reference) < NEAR
    assert all(apart(a.grad.cpu(), b.grad) < NEAR for a, b in zip(ours, exact, strict=True))
