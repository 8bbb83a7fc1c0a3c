"""Each kernel of the segmented base, against torch's own way and against a copy of as many bytes.

Everything is timed inside a CUDA graph, over layers that do not fit in the cache together: what
starting a kernel costs the host is not in it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from service.base.segmented import loss
from service.base.segmented.kernels.gate import SiluGate
from service.base.segmented.kernels.norm import RMSNorm
from service.base.segmented.optimizer import AdamW, SlotAdamW
from service.base.segmented.pool import Pool
from service.base.segmented.products_triton import tiled, unused
from service.base.segmented.slots import Slots

Calls = Sequence[Callable[[], object]]
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
REPLAYS = 5


class Line(msgspec.Struct, frozen=True):
    """One kernel: microseconds of ours and of each peer, and how many bytes it cannot but move."""

    case: str
    ours: float
    peers: dict[str, float]
    bytes: int


def timed(calls: Calls) -> float:
    """Give the microseconds of one call."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    seen = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seen.append(1000 * start.elapsed_time(end) / len(calls))
    return median(seen)


def rows(count: int, width: int) -> Tensor:
    return torch.randn(count, width, device=DEVICE, dtype=DTYPE)


def size(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def training(sizes: Sequence[int], width: int, rank: int, layers: int = 2) -> list[Line]:
    """Time the products of a layer whose both sides are `width` wide."""
    slots, tokens = range(len(sizes)), sum(sizes)
    pool = Pool(
        {str(n): (width, width) for n in range(layers)},
        capacity=len(sizes),
        rank=rank,
        device=DEVICE,
    )
    x, thin = [rows(tokens, width) for _ in range(layers)], rows(tokens, rank)
    scaling = torch.full((tokens, 1), 2.0, device=DEVICE)
    a, b = ([of(pool.weights, str(n)) for n in range(layers)] for of in (pool.a, pool.b))
    da, db = ([of(pool.gradients, str(n)) for n in range(layers)] for of in (pool.a, pool.b))
    ours = tiled(sizes, slots, DEVICE)
    ends = torch.tensor(sizes).cumsum(0).to(DEVICE, torch.int32)
    cast = [[t.to(DTYPE) for t in held] for held in (a, b)]

    def by_torch(kind: str, x: Tensor, w: Tensor) -> dict[str, Callable[[], object]]:
        left = x.t() if kind == "outer" else x
        found = {"grouped_mm": lambda: functional.grouped_mm(left, w, offs=ends)}
        if len(set(sizes)) == 1:
            split = x.view(len(sizes), -1, x.shape[1])
            left_split = split.mT if kind == "outer" else split
            right = w.view(len(sizes), -1, w.shape[1]) if kind == "outer" else w
            found["bmm"] = lambda: torch.bmm(left_split, right)
        return found

    def add(into: Tensor, product: Callable[[], object]) -> Callable[[], object]:
        return lambda: into.view(-1).add_(product().view(-1))  # type: ignore[attr-defined]

    def line(
        name: str,
        mine: Callable[[int], object],
        kind: str,
        args: Callable[[int], tuple[Tensor, Tensor]],
        into: Sequence[Tensor] | None,
        moved: int,
    ) -> Line:
        theirs: dict[str, list[Callable[[], object]]] = {}
        for n in range(layers):
            for way, call in by_torch(kind, *args(n)).items():
                if into is None:
                    theirs.setdefault(way, []).append(call)
                elif kind == "times":
                    theirs.setdefault(way, []).append(add(into[n], call))
                else:
                    held = into[n]
                    theirs.setdefault(way, []).append(lambda h=held, c=call: h.add_(c()))
        return Line(
            f"{name} {len(sizes)} slots, {tokens} x {width}, rank {rank}",
            timed([lambda n=n: mine(n) for n in range(layers)]),
            {way: timed(calls) for way, calls in theirs.items()},
            moved,
        )

    weights = size(a[0])
    shrunk, added = size(x[0], thin) + weights, 2 * size(x[0]) + size(thin) + weights
    summed = size(x[0], thin) + 2 * weights
    a16, b16 = cast
    return [
        line(
            "x A",
            lambda n: ours.times(x[n], a[n], scaling),
            "times",
            lambda n: (x[n], a16[n]),
            None,
            shrunk,
        ),
        line(
            "g B^T",
            lambda n: ours.times(x[n], b[n].mT, scaling),
            "times",
            lambda n: (x[n], b16[n].mT),
            None,
            shrunk,
        ),
        line(
            "+= h B",
            lambda n: ours.add_times(x[n], thin, b[n]),
            "times",
            lambda n: (thin, b16[n]),
            x,
            added,
        ),
        line(
            "+= h A^T",
            lambda n: ours.add_times(x[n], thin, a[n].mT),
            "times",
            lambda n: (thin, a16[n].mT),
            x,
            added,
        ),
        line(
            "dA += x^T h",
            lambda n: ours.add_outer(da[n], x[n], thin),
            "outer",
            lambda n: (x[n], thin),
            da,
            summed,
        ),
        line(
            "dB += h^T g",
            lambda n: ours.add_outer(db[n], thin, x[n]),
            "outer",
            lambda n: (thin, x[n]),
            db,
            summed,
        ),
    ]


def decoding(count: int, width: int, rank: int = 16, layers: int = 24) -> list[Line]:
    """Time what one layer adds for `count` rows, each with an adapter of its own."""
    shapes = {str(n): (width, width) for n in range(layers)}
    pool = Pool(shapes, capacity=count, rank=rank, device=DEVICE, dtype=DTYPE)
    x, out, thin = rows(count, width), rows(count, width), rows(count, rank)
    scaling = torch.full((count, 1), 2.0, device=DEVICE)
    ends = torch.arange(1, count + 1, device=DEVICE, dtype=torch.int32)
    ours = unused(count, DEVICE)
    ours.put([1] * count, range(count))
    a, b = ([of(pool.weights, str(n)) for n in range(layers)] for of in (pool.a, pool.b))

    def theirs(n: int) -> None:
        hidden = functional.grouped_mm(x, a[n], offs=ends)
        hidden *= scaling
        out.add_(functional.grouped_mm(hidden, b[n], offs=ends))

    each, of = range(layers), f"{count} slots, {count} x {width}, rank {rank}"
    through = timed(
        [lambda n=n: ours.add_through(out, x, a[n], b[n], scaling, keep=False) for n in each]
    )
    return [
        Line(
            f"decode, both {of}",
            through,
            {"grouped_mm": timed([lambda n=n: theirs(n) for n in each])},
            size(x, out, out) + 2 * size(a[0]),
        ),
        Line(
            f"decode, x A in parts {of}",
            timed([lambda n=n: ours._in_parts(x, a[n], scaling) for n in each]),
            {
                "grouped_mm": timed(
                    [lambda n=n: functional.grouped_mm(x, a[n], offs=ends) for n in each]
                )
            },
            size(x, thin, a[0]),
        ),
        Line(
            f"decode, += h B {of}",
            timed([lambda n=n: ours.add_times(out, thin, b[n]) for n in each]),
            {"bmm": timed([lambda n=n: torch.bmm(thin.unsqueeze(1), b[n]) for n in each])},
            size(out, out, thin, b[0]),
        ),
    ]


def modules(tokens: int, width: int, between: int) -> list[Line]:
    """Time norms and gates, there alone, and there and back."""
    norm = LlamaRMSNorm(width).to(DEVICE, DTYPE).requires_grad_(False)
    x = [rows(tokens, width).requires_grad_()]
    pair = [rows(tokens, between).requires_grad_() for _ in range(2)]
    gradients = rows(tokens, width), rows(tokens, between)

    def lines(
        name: str,
        ways: Sequence[Callable[..., Tensor]],
        given: Sequence[Tensor],
        gradient: Tensor,
    ) -> list[Line]:
        plain = [tensor.detach() for tensor in given]

        def both(way: Callable[..., Tensor]) -> Callable[[], object]:
            # Capturing needs the way there on the same stream as the way back.
            return lambda: torch.autograd.grad(way(*given), given, gradient)

        there = [timed([lambda way=way: way(*plain)]) for way in ways]
        back = [timed([both(way)]) for way in ways]
        once = size(*given, gradient)
        of = f"{name} {tuple(gradient.shape)}"
        return [
            Line(f"{of}, there", there[0], {"torch": there[1]}, once),
            Line(f"{of}, there and back", back[0], {"torch": back[1]}, 2 * once + size(*given)),
        ]

    norms = (lambda x: RMSNorm.apply(x, norm.weight, 1e-6)), norm
    gates = SiluGate.apply, (lambda gate, up: functional.silu(gate) * up)
    return [
        *lines("norm", norms, x, gradients[0]),
        *lines("gate", gates, pair, gradients[1]),
    ]


def comparing(count: int, words: int) -> list[Line]:
    """Time the loss and its gradient with respect to the logits."""
    logits, targets = rows(count, words), torch.zeros(count, dtype=torch.int64, device=DEVICE)
    nll = torch.empty(count, device=DEVICE)
    correct = torch.empty(count, dtype=torch.bool, device=DEVICE)

    def by(compare: Callable[..., Tensor]) -> Calls:
        run = lambda: compare(logits, targets, nll, correct, share=True).to(DTYPE)  # noqa: E731
        return [run]

    times = timed(by(loss._compare)), timed(by(loss._plain))
    return [Line(f"loss {count} x {words}", times[0], {"torch": times[1]}, 2 * size(logits))]


def stepping(slots: int, width: int, layers: int) -> list[Line]:
    """Time AdamW's step of many slots, the norms of their gradients included."""
    shapes = {str(n): (width, width) for n in range(layers)}
    pool = Pool(shapes, capacity=slots, rank=16, device=DEVICE)
    optimizer = SlotAdamW(Slots(pool))
    settings = {slot: AdamW(lr=1e-4, clip=1.0) for slot in range(slots)}
    times = []
    for step in (optimizer.step, optimizer._step_each):
        step(settings)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPLAYS):
            step(settings)
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / REPLAYS)
    case = f"AdamW {slots} slots of {pool.row / 1e6:.0f} M"
    return [Line(case, times[0], {"torch": times[1]}, 9 * size(pool.weights))]


def report(lines: Sequence[Line]) -> None:
    """Print a table, and as the last line one JSON object; times are microseconds."""
    block = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
    into = torch.empty_like(block)
    speed = 2 * len(block) / timed([lambda: into.copy_(block)] * 4)
    print(f"{torch.cuda.get_device_name()}: a copy moves {speed / 1e6:.2f} TB/s")
    print(f"{'case':<58}  {'ours':>8}  {'a copy':>8}  {'of it':>5}  peers")
    table = []
    for line in lines:
        copy = line.bytes / speed
        peers = "  ".join(f"{name} {time:.1f}" for name, time in line.peers.items())
        print(
            f"{line.case:<58}  {line.ours:>8.1f}  {copy:>8.1f}  {line.ours / copy:>5.2f}  {peers}"
        )
        peer = min(line.peers.values())
        row = {"case": line.case, "ours": round(line.ours, 1), "peer": round(peer, 1)}
        table.append({**row, "ratio": round(peer / line.ours, 2)})
    print(json.dumps({"bench": "kernels", "preset": "h200", "rows": table}))


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["h200"], required=True)
    parser.parse_args()
    ragged = [1 + 37 * n % 1000 for n in range(17)]
    report(
        [
            *training([128] * 64, 4096, 16),
            *training([128] * 64, 14336, 16),
            *training([512] * 16, 4096, 64),
            *training(ragged, 4096, 16),
            *decoding(32, 4096),
            *decoding(32, 14336, layers=8),
            *modules(8192, 4096, 14336),
            *comparing(1046, 128256),
            *stepping(8, 4096, 160),
        ]
    )


if __name__ == "__main__":
    main()
