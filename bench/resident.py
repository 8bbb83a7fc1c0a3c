"""Our side of generation: the resident base's decoding batch."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from bench.workload import ALPHA, ATTENTION, RANK
from service.base.generating.decoding import DecodingBatch
from service.base.generating.model import GenerationModel
from service.base.lora_files import LoraFiles
from service.base.rows import Row
from service.base.segmented.base import SegmentedBase


class Resident:
    """A greedy batch whose rows name adapters in turn; no adapters is the bare base."""

    def __init__(
        self,
        base: SegmentedBase,
        prompts: Sequence[list[int]],
        adapters: Sequence[Mapping[str, Tensor]],
        most_tokens: int,
    ) -> None:
        """`most_tokens` are a row's, with its prompt."""
        rows = len(prompts)
        model = GenerationModel(
            base,
            most=rows,
            most_adapters=max(1, len(adapters)),
            tokens=rows * (most_tokens + 32),
            context=most_tokens,
        )
        for number, weights in enumerate(adapters):
            files = LoraFiles(RANK, ALPHA, False, list(ATTENTION), dict(weights))
            model.adapters.add(f"t{number}", files)
        names = [f"t{row % len(adapters)}" if adapters else None for row in range(rows)]
        self._batch = DecodingBatch(model, model.chunk_tokens)
        self._batch.add(
            _row(key, name, prompt)
            for key, (name, prompt) in enumerate(zip(names, prompts, strict=True))
        )
        self._rows = rows

    def begin(self) -> list[int]:
        """Read all prompts; give every row's first token."""
        first: dict[int, int] = {}
        while len(first) < self._rows:
            first = self._round() | first
        return [first[key] for key in range(self._rows)]

    def step(self) -> None:
        """Give every row its next token."""
        if len(self._round()) < self._rows:
            raise RuntimeError("not every row got a token")

    def _round(self) -> dict[int, int]:
        result = self._batch.round()
        if result.faults:
            raise result.faults[0]
        return {pick.key: pick.token for pick in result.picks}


def _row(key: int, adapter: str | None, prompt: list[int]) -> Row:
    return Row(
        key=key,
        adapter=adapter,
        # Each its own tenant: nobody's prompt is found in the cache.
        salt=str(key),
        prompt=prompt,
        temperature=0.0,
        top_p=1.0,
        logprobs=None,
        chance=lambda: 0.0,
    )
