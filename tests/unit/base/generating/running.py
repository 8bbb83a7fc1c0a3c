"""Rows through a decoding batch, and what PEFT's own `generate` says of them."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from service.base.generating.decoding import DecodingBatch
from service.base.generating.model import GenerationModel
from service.base.lora_files import read_lora
from service.base.rows import Row
from service.base.segmented.base import SegmentedBase


class Bench:
    """A model that is the segmented base's for ours, and a twin of it that is PEFT's."""

    def __init__(self, make: Any, folders: Mapping[str, Path], **limits: Any) -> None:
        self.folders = dict(folders)
        self.base = SegmentedBase(make())
        self.limits = {"most": 32, "most_adapters": 8, "tokens": 4096, "context": 256, **limits}
        self._twin = make()
        self._peft: Any = None
        for name, folder in folders.items():
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._twin, folder, adapter_name=name)
            else:
                self._peft.load_adapter(folder, adapter_name=name)

    def model(self, **limits: Any) -> GenerationModel:
        """Make a model with all the adapters on it."""
        model = GenerationModel(self.base, **{**self.limits, **limits})
        for name, folder in self.folders.items():
            model.adapters.add(name, read_lora(folder, self.base.shapes))
        return model

    def expected(self, row: Row, length: int) -> list[int]:
        """Give what PEFT generates."""
        ids = torch.tensor([row.prompt])
        model = self._twin if self._peft is None else self._peft
        given = {} if self._peft is None else {"adapter_names": [row.adapter or "__base__"]}
        with torch.inference_mode():
            whole = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                **given,
            )
        return whole[0, len(row.prompt) :].tolist()


def row(key: int, adapter: str | None = None, prompt: list[int] | None = None, **other: Any) -> Row:
    """Make a greedy row with a stream of its own."""
    given = {"temperature": 0.0, "top_p": 1.0, "logprobs": None, "salt": "acme"}
    given |= {"chance": random.Random(key).random, **other}
    return Row(key=key, adapter=adapter, prompt=prompt or [5, 6, 7], **given)


def prompts(count: int, seed: int = 0, most: int = 70, vocabulary: int = 4096) -> list[list[int]]:
    """Draw prompts of all lengths."""
    chance = random.Random(seed)
    return [
        [chance.randrange(5, vocabulary) for _ in range(chance.randrange(1, most))]
        for _ in range(count)
    ]


def run(
    batch: DecodingBatch, arrivals: Mapping[int, Sequence[Row]], lengths: Mapping[int, int]
) -> dict[int, list[int]]:
    """Let rows in at their rounds and out at their lengths; gives each row's tokens."""
    made: dict[int, list[int]] = {}
    number = 0
    while batch.busy or any(at >= number for at in arrivals):
        batch.add(arrivals.get(number, []))
        result = batch.round()
        assert not result.faults, result.faults
        for picked in result.picks:
            made.setdefault(picked.key, []).append(picked.token)
        batch.drop([key for key, tokens in made.items() if len(tokens) >= lengths[key]])
        number += 1
    return made
