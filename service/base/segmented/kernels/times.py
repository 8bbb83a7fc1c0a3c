"""Multiply rows by their adapter's matrix, where one side of it is thin.

The same kernel shrinks (a long sum, few columns) and expands (a short sum, many columns); both are
bound by memory, so every large tensor is read once and written once.
"""

import triton
import triton.language as tl


# Not compiled anew for what differs from batch to batch.
@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["tiles"])
def times_kernel(
    x,
    w,
    out,
    scaling,
    tiles,
    inner,
    columns,
    share,
    count,
    x_row,
    w_slot,
    w_inner,
    w_column,
    out_row,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    SCALED: tl.constexpr,
    ADD: tl.constexpr,
):
    """Multiply one tile of rows with one block of columns, over one `share` of the sum.

    `x` comes in PARTS that are added up; each share of the sum is written to a part of its own. A
    part has `count` rows.
    Where `w` is held in another dtype than is computed in, it is converted after it is read.
    """
    blocks = tl.cdiv(columns, COLUMNS)
    tile = tiles + 3 * (tl.program_id(0) // blocks)
    rows = tl.load(tile + 2)
    if rows == 0:
        return
    slot = tl.load(tile).to(tl.int64)
    first = tl.load(tile + 1).to(tl.int64)
    row = tl.arange(0, ROWS)
    column = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    real_row = row < rows
    real_column = column < columns
    real = real_row[:, None] & real_column[None, :]
    into = out + (tl.program_id(1).to(tl.int64) * count + first + row)[:, None] * out_row
    into += column[None, :]
    if ADD:
        before = tl.load(into, mask=real, other=0.0).to(tl.float32)

    x += (first + row)[:, None] * x_row
    w += slot * w_slot + column[None, :].to(tl.int64) * w_column
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    start = tl.program_id(1) * share
    for k in range(start, tl.minimum(start + share, inner), INNER):
        place = k + tl.arange(0, INNER)
        real_place = place < inner
        mask = real_row[:, None] & real_place[None, :]
        if PARTS == 1:
            left = tl.load(x + place[None, :], mask=mask, other=0.0)
        else:
            summed = tl.zeros((ROWS, INNER), tl.float32)
            for part in tl.static_range(PARTS):
                summed += tl.load(x + part * count * x_row + place[None, :], mask=mask, other=0.0)
            left = summed.to(out.dtype.element_ty)
        right = tl.load(
            w + place[:, None].to(tl.int64) * w_inner,
            mask=real_place[:, None] & real_column[None, :],
            other=0.0,
        )
        total = tl.dot(left, right.to(left.dtype), total, input_precision="ieee")

    if SCALED:
        total *= tl.load(scaling + first + row, mask=real_row, other=0.0).to(tl.float32)[:, None]
    if ADD:
        total += before
    tl.store(into, total.to(out.dtype.element_ty), mask=real)
