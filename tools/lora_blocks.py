"""What vLLM's LoRA kernels are asked for by a base, and which of their block sizes to try."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, product
from typing import Any

import msgspec

Config = dict[str, int | None]
Measure = Callable[[Sequence[Config]], list[float]]
Table = dict[str, Any]

TARGETS = {"attention": ("qkv", "o"), "all": ("qkv", "gate_up", "down", "o")}
GAIN = 0.98
"""What is less than 2% faster is noise."""
BOLDEST = 8
"""One case takes no more than this part of the time left, while others wait."""


class Case(msgspec.Struct, frozen=True):
    """One kernel's work at one number of tokens; `layers` are those that ask for the very same."""

    op: str
    tokens: int
    inputs: int
    outputs: tuple[int, ...]
    rank: int
    layers: tuple[str, ...]

    @property
    def wide(self) -> int:
        """The side that is not the rank; of slices that differ, the widest."""
        return self.inputs if self.op == "shrink" else max(self.outputs)

    @property
    def keys(self) -> tuple[str, ...]:
        """Where vLLM looks within a number of slots: slices, then m, k and n of the product."""
        k, n = (self.wide, self.rank) if self.op == "shrink" else (self.rank, self.wide)
        return str(len(self.outputs)), str(self.tokens), str(k), str(n)


def cases(
    base: dict[str, Any], sizes: Iterable[int], rank: int, targets: Iterable[str] = TARGETS["all"]
) -> list[Case]:
    """Say what those layers of a base with this config.json ask of the kernels."""
    hidden, middle = base["hidden_size"], base["intermediate_size"]
    head = base.get("head_dim") or hidden // base["num_attention_heads"]
    queries = head * base["num_attention_heads"]
    keys = head * (base.get("num_key_value_heads") or base["num_attention_heads"])
    layers: dict[str, tuple[int, tuple[int, ...]]] = {
        "qkv": (hidden, (queries, keys, keys)),
        "gate_up": (hidden, (middle, middle)),
        "down": (middle, (hidden,)),
        "o": (queries, (hidden,)),
    }
    found: dict[tuple[str, ...], Case] = {}
    for tokens, name, op in product(sizes, targets, ("shrink", "expand")):
        inputs, outputs = layers[name]
        case = Case(op, tokens, inputs, outputs, rank, (name,))
        same = found.get((op, *case.keys))
        both = (*same.layers, name) if same else (name,)
        found[op, *case.keys] = msgspec.structs.replace(case, layers=both)
    return list(found.values())


def groups(case: Case) -> list[list[Config]]:
    """List what is tried; sizes that are good or bad only together are in one group."""
    launches = _every(num_warps=(4, 8), num_stages=(2, 3, 4))
    if case.op == "expand":
        deep = [size for size in (16, 32, 64) if size <= max(32, case.rank)]
        blocks = _every(block_m=(16, 32, 64), block_n=(64, 128, 256))
        return [_every(block_k=deep), blocks, launches[:2] + launches[3:5]]
    # A prompt's many rows fill the GPU by themselves.
    splits = (1, 2, 4, 8) if case.tokens > 512 else (4, 8, 16, 32, 64)
    across = [size for size in (16, 32, 64) if size <= max(16, case.rank)]
    depth = _every(block_k=(64, 128, 256, 512), split_k=splits)
    return [depth, launches, _every(block_m=(16, 32, 64), block_n=across)]


def _every(**sizes: Sequence[int]) -> list[Config]:
    return [dict(zip(sizes, values, strict=True)) for values in product(*sizes.values())]


def sensible(case: Case, config: Config) -> bool:
    """Tell what is worth compiling: no block beyond the sum's end, no tile beyond shared memory."""
    if case.op == "expand":
        return True
    m, k, split = (config[name] or 1 for name in ("block_m", "block_k", "split_k"))
    return case.inputs % (k * split) == 0 and m * k <= 32 * 512


def descend(case: Case, starts: Sequence[Config], measure: Measure) -> Config:
    """Change one group of sizes at a time to the fastest, from the fastest start, while it helps.

    What cannot run, or no longer has time to, measures as infinite.
    """
    tried = list(starts)
    took, best = min(zip(measure(starts), starts, strict=True), key=lambda pair: pair[0])
    vain, searched = 0, groups(case)
    for group in cycle(searched):
        if vain == len(searched):
            break
        new = [best | change for change in group]
        new = [config for config in new if config not in tried and sensible(case, config)]
        tried += new
        fastest = min(zip(measure(new), new, strict=True), key=lambda pair: pair[0], default=None)
        if fastest and fastest[0] < GAIN * took:
            (took, best), vain = fastest, 0
        vain += 1
    return best


def share(left: float, waiting: int) -> float:
    """Give the next case its part of the seconds left: the first ones more than the last."""
    return max(0.0, left) / min(max(waiting, 1), BOLDEST)


def filed(chosen: dict[Case, Config], op: str, slots: int) -> Table:
    """Nest one operation's configurations as vLLM reads them; its slots count "no adapter" too."""
    table: Table = {}
    for case, config in chosen.items():
        if case.op == op:
            at = table
            for key in (str(slots + 1), *case.keys[:-1]):
                at = at.setdefault(key, {})
            at[case.keys[-1]] = config
    return table


def summed(took: dict[Case, list[float]]) -> dict[str, dict[str, float]]:
    """Add up a layer of the base's microseconds, by the tokens in a step."""
    sums: dict[str, dict[str, float]] = {"default_us": {}, "tuned_us": {}}
    for case, seconds in took.items():
        for sum_, each in zip(sums.values(), seconds, strict=True):
            total = sum_.get(str(case.tokens), 0.0) + 1e6 * each * len(case.layers)
            sum_[str(case.tokens)] = round(total, 1)
    return sums
