"""The running batch against PEFT's own `generate`, and its behaviour when a step fails."""

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from service.base.generating.decoding import DecodingBatch  # noqa: E402
from service.base.rows import Row  # noqa: E402
from tests.fakes.tiny import ALL, tiny_model, write_adapter  # noqa: E402
from tests.unit.base.generating.running import Bench, prompts, row, run  # noqa: E402

pytestmark = pytest.mark.torch

ADAPTERS = {
    "one": {"seed": 1, "rank": 4, "targets": ("q_proj", "v_proj")},
    "two": {"seed": 2, "rank": 16, "targets": ALL, "rslora": True},
    "three": {"seed": 3, "rank": 2, "targets": ("down_proj",)},
}
HARD = {
    "as it is": {},
    "prompts in small chunks": {"chunk_tokens": 8},
    "few blocks, so that rows are sent back": {"tokens": 96, "size": 4},
    "tensors that stay where they are": {"static": True},
    "all at once": {"chunk_tokens": 5, "tokens": 96, "size": 4, "static": True},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("adapters")
    made = {name: write_adapter(folder / name, **how) for name, how in ADAPTERS.items()}
    return Bench(tiny_model, made)


def batch_on(bench: Bench, chunk_tokens: int = 512, **limits) -> DecodingBatch:
    return DecodingBatch(bench.model(**limits), chunk_tokens)


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
def test_an_adapter_alone_gives_the_tokens_of_pefts_generate(bench, adapter) -> None:
    asked = row(1, adapter, prompts(1)[0])
    assert run(batch_on(bench), {0: [asked]}, {1: 20})[1] == bench.expected(asked, 20)


@pytest.mark.parametrize("how", HARD)
def test_rows_that_join_and_leave_at_any_step_get_the_tokens_of_pefts_generate(bench, how) -> None:
    chance = random.Random(4)
    adapters = [None, *ADAPTERS] * 4
    lengths = {key: chance.randrange(1, 40) for key in range(16)}
    arrivals: dict[int, list[Row]] = {}
    rows = [row(k, adapters[k], prompt) for k, prompt in enumerate(prompts(16, most=40))]
    for each in rows:
        arrivals.setdefault(chance.randrange(20), []).append(each)
    batch = batch_on(bench, **HARD[how])
    made = run(batch, arrivals, lengths)
    for each in rows:
        expected = bench.expected(each, lengths[each.key])
        assert made[each.key] == expected, (each.key, each.adapter)
    assert bool(batch.use.preemptions) == ("tokens" in HARD[how])
    assert batch.use.used == 0
