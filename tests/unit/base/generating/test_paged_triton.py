"""The paged kernel against attention over the past as it is.

Without a GPU it runs where Triton is installed and TRITON_INTERPRET=1 is set.
"""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch.nn import functional  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
        reason="no GPU, and Triton does not interpret",
    ),
]
SIZE = 16


def reference(q, keys, values, window):
    shared = q.shape[0] // keys.shape[1]
    keys, values = (t.repeat_interleave(shared, 1).transpose(0, 1) for t in (keys, values))
    if window is not None:
        keys, values = keys[:, -window:], values[:, -window:]
    return functional.scaled_dot_product_attention(q.unsqueeze(1), keys, values).squeeze(1)


@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 2, 64), (3, 3, 24), (32, 1, 128)])
def test_it_attends_to_each_rows_own_past(heads, key_heads, width, window) -> None:
    from service.base.generating.paged_triton import paged_decode

    random = torch.Generator().manual_seed(1)
    lengths = [1, 16, 17, 300, 5]
    needed = [-(-length // SIZE) for length in lengths]
    numbers = (torch.randperm(sum(needed), generator=random) + 1).split(needed)
    tables = torch.zeros(len(lengths), max(needed) + 2, dtype=torch.int64)
    # What no row owns must not matter, whatever it is.
    pool = torch.full((2, sum(needed) + 1, SIZE, key_heads, width), float("nan"))
    pasts = []
    for row, (length, blocks) in enumerate(zip(lengths, numbers, strict=True)):
        tables[row, : len(blocks)] = blocks
        past = torch.randn(2, length, key_heads, width, generator=random)
        for at in range(length):
            pool[:, blocks[at // SIZE], at % SIZE] = past[:, at]
        pasts.append(past)
    q = torch.randn(len(lengths), heads, width, generator=random)
    given = (q, *pool, tables, torch.tensor(lengths))
    out = paged_decode(*(t.to(DEVICE) for t in given), None, window).cpu()
    expected = torch.stack([reference(q[r], *past, window) for r, past in enumerate(pasts)])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
