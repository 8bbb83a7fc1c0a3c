"""Sum each adapter's rows into its gradient: `into[slot] += wide^T thin`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["segments"])
def add_outer_kernel(
    wide,
    thin,
    into,
    segments,
    width,
    columns,
    wide_row,
    thin_row,
    into_slot,
    into_place,
    into_column,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add one block of `[width, columns]` of one adapter, over all of its rows."""
    blocks = tl.cdiv(width, WIDTH)
    segment = segments + 3 * (tl.program_id(0) // blocks)
    slot = tl.load(segment).to(tl.int64)
    first = tl.load(segment + 1).to(tl.int64)
    rows = tl.load(segment + 2)
    place = (tl.program_id(0) % blocks) * WIDTH + tl.arange(0, WIDTH)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real_place = place < width
    real_column = column < columns

    wide += first * wide_row + place[:, None]
    thin += first * thin_row + column[None, :]
    total = tl.zeros((WIDTH, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        far = row.to(tl.int64)
        real_row = row < rows
        left = tl.load(
            wide + far[None, :] * wide_row,
            mask=real_place[:, None] & real_row[None, :],
            other=0.0,
        )
        right = tl.load(
            thin + far[:, None] * thin_row,
            mask=real_row[:, None] & real_column[None, :],
            other=0.0,
        )
        total = tl.dot(left, right.to(left.dtype), total, input_precision="ieee")

    into += slot * into_slot + place[:, None].to(tl.int64) * into_place
    into += column[None, :].to(tl.int64) * into_column
    real = real_place[:, None] & real_column[None, :]
    total += tl.load(into, mask=real, other=0.0).to(tl.float32)
    tl.store(into, total.to(into.dtype.element_ty), mask=real)
