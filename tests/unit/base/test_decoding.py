"""The mixed batch against PEFT's own `generate`, and its behaviour when a step fails."""

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from service.base.decoding import DecodingBatch  # noqa: E402
from service.base.lora_files import read_lora  # noqa: E402
from service.base.mixed_lora import MixedLora  # noqa: E402
from service.base.rows import Row  # noqa: E402
from tests.fakes.tiny import ALL, tiny_model, write_adapter  # noqa: E402

pytestmark = pytest.mark.torch

ADAPTERS = {
    "one": {"seed": 1, "rank": 4, "targets": ("q_proj", "v_proj")},
    "two": {"seed": 2, "rank": 16, "targets": ALL, "rslora": True},
    "three": {"seed": 3, "rank": 2, "targets": ("down_proj",)},
}


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> MixedLora:
    folder = tmp_path_factory.mktemp("adapters")
    lora = MixedLora(tiny_model())
    for name, made in ADAPTERS.items():
        lora.add(name, read_lora(write_adapter(folder / name, **made), lora.shapes))
    return lora


def row(key: int, adapter: str | None = None, prompt: list[int] | None = None, **other) -> Row:
    given = {"prompt_id": key, "temperature": 0.0, "top_p": 1.0, "logprobs": None}
    given |= {"chance": random.Random(key).random, **other}
    return Row(key=key, adapter=adapter, prompt=prompt or [5, 6, 7], **given)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [
        [chance.randrange(5, 4096) for _ in range(chance.randrange(1, 70))] for _ in range(count)
    ]


def run(batch: DecodingBatch, arrivals: dict[int, list[Row]], lengths: dict[int, int]):
    """Let rows in at their rounds and out at their lengths; returns each row's tokens."""
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
    return {key: tokens[: lengths[key]] for key, tokens in made.items()}


def by_peft(lora: MixedLora, adapter: str | None, prompt: list[int], length: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        whole = lora._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=False,
            adapter_names=[adapter or "__base__"],
        )
    return whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
def test_an_adapter_alone_gives_the_tokens_of_pefts_generate(lora, adapter) -> None:
    batch = DecodingBatch(lora.forward, lora.device)
    prompt = prompts(1)[0]
    made = run(batch, {0: [row(1, adapter, prompt)]}, {1: 20})
    assert made[1] == by_peft(lora, adapter, prompt, 20)


@pytest.mark.parametrize("prefill_tokens", [16, 512])
def test_rows_that_join_and_leave_at_any_step_get_the_tokens_of_pefts_generate(
    lora, prefill_tokens
) -> None:
    chance = random.Random(4)
    adapters = [None, *ADAPTERS] * 4
    lengths = {key: chance.randrange(1, 25) for key in range(16)}
    arrivals: dict[int, list[Row]] = {}
    rows = [row(k, adapters[k], prompt) for k, prompt in enumerate(prompts(16))]
    for each in rows:
        arrivals.setdefault(chance.randrange(20), []).append(each)
    made = run(DecodingBatch(lora.forward, lora.device, prefill_tokens), arrivals, lengths)
    for each in rows:
        expected = by_peft(lora, each.adapter, each.prompt, lengths[each.key])
        assert made[each.key] == expected, (each.key, each.adapter)


def test_each_adapter_and_the_base_answer_differently(lora) -> None:
    rows = [row(key, adapter) for key, adapter in enumerate([None, *ADAPTERS])]
    made = run(DecodingBatch(lora.forward, lora.device), {0: rows}, dict.fromkeys(range(4), 8))
    assert len({tuple(tokens) for tokens in made.values()}) == 4


def test_a_seeded_row_gets_the_same_tokens_whoever_else_is_there(lora) -> None:
    def sampled() -> Row:
        chance = random.Random(7).random
        return row(0, "two", [9, 8, 7], temperature=1.3, top_p=0.9, chance=chance)

    alone = run(DecodingBatch(lora.forward, lora.device), {0: [sampled()]}, {0: 30})
    others = [
        row(key, "one" if key % 2 else None, prompt, temperature=1.0)
        for key, prompt in enumerate(prompts(8), 1)
    ]
    lengths = {0: 30, **{key: 3 * key for key in range(1, 9)}}
    company = run(
        DecodingBatch(lora.forward, lora.device),
        {0: others[:4], 2: [sampled()], 5: others[4:]},
        lengths,
    )
    assert company[0] == alone[0]


def test_rows_of_one_prompt_share_its_prefill(lora) -> None:
    widths = []

    def counting(adapters, **inputs):
        widths.append(tuple(inputs["input_ids"].shape))
        return lora.forward(adapters, **inputs)

    rows = [row(k, "one", [3] * 20, prompt_id=1) for k in range(4)]
    made = run(DecodingBatch(counting, lora.device), {0: rows}, dict.fromkeys(range(4), 3))
    assert widths == [(1, 20), (4, 1), (4, 1)]
    assert len({tuple(tokens) for tokens in made.values()}) == 1


def test_a_long_prompt_is_taken_in_by_slices_while_others_go_on(lora) -> None:
    batch = DecodingBatch(lora.forward, lora.device, prefill_tokens=8)
    batch.add([row(1)])
    batch.round()
    batch.add([row(2, None, [11] * 33)])
    keys = [[picked.key for picked in batch.round().picks] for _ in range(6)]
    assert keys == [[1], [1], [1], [1], [1, 2], [1, 2]]


def test_a_row_that_leaves_during_its_prefill_is_gone(lora) -> None:
    batch = DecodingBatch(lora.forward, lora.device, prefill_tokens=8)
    batch.add([row(1, None, [11] * 33)])
    batch.round()
    batch.drop([1])
    assert not batch.busy


def test_logprobs_are_those_of_the_raw_distribution(lora) -> None:
    batch = DecodingBatch(lora.forward, lora.device)
    batch.add([row(1, "one", [4, 5], logprobs=3, temperature=2.0), row(2, "one", [4, 5])])
    one, two = batch.round().picks
    with torch.inference_mode():
        ids = torch.tensor([[4, 5]])
        logits = lora._model(input_ids=ids, adapter_names=["one"]).logits[0, -1]
    expected = logits.log_softmax(-1)
    assert one.logprob == pytest.approx(float(expected[one.token]), abs=1e-4)
    assert [token for token, _ in one.top] == expected.topk(3).indices.tolist()
    assert (two.logprob, two.top) == (None, [])


def test_a_failed_step_loses_its_rows_and_no_others(lora) -> None:
    failing = False

    def forward(adapters, **inputs):
        if failing:
            raise RuntimeError("out of memory")
        return lora.forward(adapters, **inputs)

    batch = DecodingBatch(forward, lora.device)
    batch.add([row(1), row(2)])
    batch.round()
    failing = True
    result = batch.round()
    assert (sorted(result.lost), result.picks) == ([1, 2], [])
    assert not batch.busy
    failing = False
    assert run(batch, {0: [row(3, "two")]}, {3: 5})[3] == by_peft(lora, "two", [5, 6, 7], 5)


def test_a_failed_prefill_leaves_the_running_rows(lora) -> None:
    def forward(adapters, **inputs):
        if "two" in adapters:
            raise RuntimeError("this prompt breaks")
        return lora.forward(adapters, **inputs)

    batch = DecodingBatch(forward, lora.device)
    batch.add([row(1)])
    batch.round()
    batch.add([row(2, "two")])
    result = batch.round()
    assert (result.lost, [picked.key for picked in result.picks]) == ([2], [1])


def test_sliding_windows_stand_in_a_batch_too(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.2,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    lora = MixedLora(MistralForCausalLM(config).eval())
    given = [[5 + n for n in range(length)] for length in (3, 30)]
    rows = [row(key, None, prompt) for key, prompt in enumerate(given)]
    made = run(DecodingBatch(lora.forward, lora.device), {0: rows[:1], 4: rows[1:]}, {0: 20, 1: 9})
    assert made == {0: by_peft(lora, None, given[0], 20), 1: by_peft(lora, None, given[1], 9)}
