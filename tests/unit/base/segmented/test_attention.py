"""A packed row's examples are each as if alone."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from service.base.segmented.attention import Packed, packed_attention  # noqa: E402
from service.base.segmented.batch import Batch  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from tests.unit.base.segmented.models import CONFIGS, OneSet, apart, make, random_ids  # noqa: E402

pytestmark = pytest.mark.torch

WINDOWED = {
    "mistral": {"sliding_window": 3},
    "qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
}


def logits_of(model: object, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the packed row's logits, and those of its examples one by one, without packing."""
    base = OneSet(model, capacity=1, rank=8)
    batch = base.batch([Part(None, lengths)])
    ids = random_ids(batch)
    with torch.no_grad(), base.running(batch):
        packed = base.logits(base.hidden(batch, ids))
    base.remove()
    alone = [
        model(input_ids=example[None], use_cache=False).logits[0].detach()
        for example in ids.split(lengths)
    ]
    return packed, torch.cat(alone)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("lengths", [(1, 9, 2, 5), (6, 6, 6), (12,)])
def test_each_example_has_the_logits_it_has_alone(architecture, lengths) -> None:
    packed, alone = logits_of(make(architecture), lengths)
    assert apart(packed, alone) < 1e-12


@pytest.mark.parametrize("architecture", WINDOWED)
@pytest.mark.parametrize("lengths", [(1, 11, 3, 5), (8, 8)])
def test_sliding_windows_are_those_of_the_model(architecture, lengths) -> None:
    changes = WINDOWED[architecture]
    packed, alone = logits_of(make(architecture, **changes), lengths)
    assert apart(packed, alone) < 1e-12
    unwindowed, _ = logits_of(make(architecture), lengths)
    assert apart(packed, unwindowed) > 1e-3


@pytest.mark.parametrize(
    "given",
    [
        {"attention_mask": torch.ones(1, 1, 4, 4)},
        {"dropout": 0.1},
        {"softcap": 30.0},
        {"s_aux": torch.zeros(2)},
    ],
)
def test_what_cannot_be_done_is_refused(given) -> None:
    base = OneSet(make(), capacity=1, rank=8)
    batch: Batch = base.batch([Part(None, (4,))])
    qkv = [torch.zeros(1, 2, 4, 8)] * 3
    given = {"attention_mask": None, **given}
    with pytest.raises(ValueError, match="packed attention"):
        packed_attention(SimpleNamespace(layer_idx=0), *qkv, packing=batch, **given)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [(5, 9), (6, 6), (600,)])
def test_in_bf16_it_is_as_near_as_bf16_can_be(lengths, window) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v, given = (torch.randn(sum(lengths), n, 8, generator=random) for n in (4, 2, 2, 4))

    def attended(dtype: torch.dtype) -> list[torch.Tensor]:
        qkv = [t.to(torch.bfloat16).to(dtype).requires_grad_() for t in (q, k, v)]
        packed = Packed(lengths, torch.device("cpu"))
        out = packed(0, *qkv, scaling=None, window=window)
        assert out.dtype is dtype
        out.backward(given.to(dtype))
        return [out.detach(), *(t.grad for t in qkv)]

    for near, exact in zip(attended(torch.bfloat16), attended(torch.float32), strict=True):
        assert apart(near.double(), exact.double()) < 0.01
