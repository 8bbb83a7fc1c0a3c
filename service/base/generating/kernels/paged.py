"""Flash decoding over blocks: the past of a row is split, each part has a softmax of its own, and a
second kernel puts the parts together. The query heads that share a key head are done at once.
"""

import triton
import triton.language as tl


@triton.jit
def attend_part_kernel(
    q, keys, values, tables, lengths, sums, scores, scaling,
    stride_table, stride_block, stride_token, stride_head,
    window: tl.constexpr,
    parts: tl.constexpr, heads: tl.constexpr, group: tl.constexpr, width: tl.constexpr,
    size: tl.constexpr, padded_group: tl.constexpr, padded_width: tl.constexpr,
    tokens: tl.constexpr,
):  # fmt: skip
    row, key_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = 0
    if window >= 0:
        first = tl.maximum(length - window, 0)
    each = tl.cdiv(tl.cdiv(length - first, parts), tokens) * tokens
    begin = first + part * each
    end = tl.minimum(begin + each, length)

    in_group, in_width = tl.arange(0, padded_group), tl.arange(0, padded_width)
    head = key_head * group + in_group
    real_head, real_width = in_group < group, in_width < width
    of_queries = (row * heads + head)[:, None] * width + in_width[None, :]
    real = real_head[:, None] & real_width[None, :]
    queries = tl.load(q + of_queries, mask=real, other=0.0)

    best = tl.full([padded_group], float("-inf"), tl.float32)
    total = tl.zeros([padded_group], tl.float32)
    summed = tl.zeros([padded_group, padded_width], tl.float32)
    for start in range(begin, end, tokens):
        at = start + tl.arange(0, tokens)
        there = at < end
        block = tl.load(tables + row * stride_table + at // size, mask=there, other=0)
        of_tokens = block.to(tl.int64) * stride_block + (at % size) * stride_token
        of_past = (of_tokens + key_head * stride_head)[:, None] + in_width[None, :]
        past = there[:, None] & real_width[None, :]
        k = tl.load(keys + of_past, mask=past, other=0.0)
        v = tl.load(values + of_past, mask=past, other=0.0)
        score = tl.dot(queries, tl.trans(k), input_precision="ieee") * scaling
        score = tl.where(there[None, :], score, float("-inf"))
        better = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - better[:, None])
        shrink = tl.exp(best - better)
        total = total * shrink + tl.sum(weight, 1)
        added = tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        summed = summed * shrink[:, None] + added
        best = better

    # A part without tokens has the score -inf, and so no weight among the parts.
    of_part = (row * heads + head) * parts + part
    some = tl.where(total > 0, total, 1.0)
    tl.store(scores + of_part, best + tl.log(some), mask=real_head)
    tl.store(sums + of_part[:, None] * width + in_width[None, :], summed / some[:, None], mask=real)


@triton.jit
def join_parts_kernel(
    sums, scores, out,
    heads: tl.constexpr, parts: tl.constexpr, width: tl.constexpr, padded_width: tl.constexpr,
):  # fmt: skip
    of_head = tl.program_id(0) * heads + tl.program_id(1)
    in_part, in_width = tl.arange(0, parts), tl.arange(0, padded_width)
    real = in_width < width
    score = tl.load(scores + of_head * parts + in_part)
    weight = tl.exp(score - tl.max(score, 0))
    of_sums = (of_head * parts + in_part)[:, None] * width + in_width[None, :]
    part = tl.load(sums + of_sums, mask=real[None, :], other=0.0)
    joined = tl.sum(part * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out + of_head * width + in_width, joined, mask=real)
