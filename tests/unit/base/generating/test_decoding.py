"""The running batch against PEFT's own `generate`, and its behaviour when a step fails."""

import random

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
    "few prompt tokens beside next tokens": {"beside": 3},
    "prompts in steps of their own": {"beside": 0},
    "all at once": {"chunk_tokens": 5, "tokens": 96, "size": 4, "static": True},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("adapters")
    made = {name: write_adapter(folder / name, **how) for name, how in ADAPTERS.items()}
    return Bench(tiny_model, made)


def batch_on(bench: Bench, chunk_tokens: int = 512, **limits) -> DecodingBatch:
    beside = limits.pop("beside", None)
    model = bench.model(**limits)
    model.beside = model.beside if beside is None else beside
    return DecodingBatch(model, chunk_tokens)


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


def test_each_adapter_and_the_base_answer_differently(bench) -> None:
    rows = [row(key, adapter) for key, adapter in enumerate([None, *ADAPTERS])]
    made = run(batch_on(bench), {0: rows}, dict.fromkeys(range(4), 8))
    assert len({tuple(tokens) for tokens in made.values()}) == 4


def sampled() -> Row:
    chance = random.Random(7).random
    return row(0, "two", [9, 8, 7], temperature=1.3, top_p=0.9, chance=chance)


@pytest.mark.parametrize("tokens", [4096, 64])
def test_a_seeded_row_gets_the_same_tokens_whoever_else_is_there(bench, tokens) -> None:
    """Also when it is sent back, and its stream of chance goes on where it was."""
    alone = run(batch_on(bench), {0: [sampled()]}, {0: 30})
    others = [
        row(key, "one" if key % 2 else None, prompt, temperature=1.0)
        for key, prompt in enumerate(prompts(8, most=20), 1)
    ]
    lengths = {0: 30, **{key: 4 * key for key in range(1, 9)}}
    batch = batch_on(bench, tokens=tokens, size=4)
    company = run(batch, {0: others[:4], 2: [sampled()], 5: others[4:]}, lengths)
    assert company[0] == alone[0]
    assert bool(batch.use.preemptions) == (tokens == 64)


@pytest.mark.parametrize("adapter", [None, "two"])
def test_a_prompt_that_begins_as_another_did_is_computed_from_there(bench, adapter) -> None:
    batch = batch_on(bench)
    begin = prompts(1, seed=3)[0] * 2 + [9] * 40
    first, second = row(1, adapter, [*begin, 7, 8]), row(2, adapter, [*begin, 9])
    assert run(batch, {0: [first]}, {1: 6})[1] == bench.expected(first, 6)
    assert batch.use.reused == 0
    assert run(batch, {0: [second]}, {2: 6})[2] == bench.expected(second, 6)
    assert batch.use.reused == len(begin) // 16 * 16


def test_nothing_is_reused_for_another_tenant_or_adapter(bench) -> None:
    batch = batch_on(bench)
    prompt = [11] * 50
    given = [row(1, "one", prompt), row(2, "two", prompt), row(3, None, prompt)]
    for each in [*given, row(4, "one", prompt, salt="globex")]:
        assert run(batch, {0: [each]}, {each.key: 5})[each.key] == bench.expected(each, 5)
    assert batch.use.reused == 0


def test_choices_of_one_prompt_share_its_blocks(bench) -> None:
    batch = batch_on(bench)
    rows = [row(k, "one", [3] * 100) for k in range(4)]
    made = run(batch, {0: rows}, dict.fromkeys(range(4), 3))
    assert [made[k] for k in range(4)] == [bench.expected(rows[0], 3)] * 4
    assert batch.use.reused == 3 * 96


def test_a_long_prompt_is_taken_in_by_chunks_while_others_go_on(bench) -> None:
    batch = batch_on(bench, chunk_tokens=8)
    batch.add([row(1)])
    batch.round()
    batch.add([row(2, None, [11] * 33)])
    keys = [sorted(picked.key for picked in batch.round().picks) for _ in range(6)]
    assert keys == [[1], [1], [1], [1], [1, 2], [1, 2]]


def test_a_row_that_leaves_during_its_prefill_is_gone(bench) -> None:
    batch = batch_on(bench, chunk_tokens=8)
    batch.add([row(1, None, [11] * 33)])
    batch.round()
    batch.drop([1])
    assert not batch.busy
    assert batch.use.used == 0


def test_a_row_that_outgrows_the_whole_cache_is_lost_and_no_other(bench) -> None:
    batch = batch_on(bench, tokens=32)
    batch.add([row(1), row(2, "two")])
    lost, made = [], 0
    while batch.busy:
        result = batch.round()
        lost += result.lost
        made += sum(picked.key == 2 for picked in result.picks)
        batch.drop([2] if made == 4 else [])
    assert lost == [1]
    assert made == 4


def test_logprobs_are_those_of_the_raw_distribution(bench) -> None:
    batch = batch_on(bench)
    batch.add([row(1, "one", [4, 5], logprobs=3, temperature=2.0), row(2, "one", [4, 5])])
    one, two = batch.round().picks
    with torch.inference_mode():
        ids = torch.tensor([[4, 5]])
        logits = bench._peft(input_ids=ids, adapter_names=["one"]).logits[0, -1]
    expected = logits.log_softmax(-1)
    assert one.logprob == pytest.approx(float(expected[one.token]), abs=1e-4)
    assert [token for token, _ in one.top] == expected.topk(3).indices.tolist()
    assert (two.logprob, two.top) == (None, [])


class Failing:
    """A model that fails whenever `when` says so of the rows' adapters."""

    def __init__(self, model, when) -> None:
        self._model = model
        self.when = when
        self.passes: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def forward(self, adapters, chunks):
        self.passes.append(len(chunks))
        if self.when(adapters):
            # Halfway: the first layer has written keys and values, and the rest has not.
            layer = self._model._base.model.model.layers[1]
            hook = layer.register_forward_pre_hook(lambda *_: 1 / 0)
            try:
                return self._model.forward(adapters, chunks)
            finally:
                hook.remove()
        return self._model.forward(adapters, chunks)


@pytest.mark.parametrize("static", [False, True])
def test_a_pass_that_fails_for_one_row_is_run_again_without_it(bench, static) -> None:
    model = Failing(bench.model(static=static), lambda adapters: False)
    batch = DecodingBatch(model)
    adapters = [None, *ADAPTERS]
    rows = [row(k, adapters[k], prompt) for k, prompt in enumerate(prompts(4))]
    batch.add(rows)
    made = {}
    for number in range(8):
        model.when = (lambda adapters: "two" in adapters) if number == 3 else (lambda _: False)
        result = batch.round()
        for picked in result.picks:
            made.setdefault(picked.key, []).append(picked.token)
        if number == 3:
            assert result.lost == [2]
            assert isinstance(result.faults[0], ZeroDivisionError)
    for each in rows:
        length = 3 if each.key == 2 else 8
        assert made[each.key] == bench.expected(each, length)


def test_when_every_pass_fails_all_are_lost_and_the_next_ones_are_not(bench) -> None:
    model = Failing(bench.model(), lambda adapters: True)
    batch = DecodingBatch(model)
    batch.add([row(1), row(2)])
    result = batch.round()
    assert (sorted(result.lost), result.picks) == ([1, 2], [])
    assert not batch.busy
    assert batch.use.used == 0
    model.when = lambda adapters: False
    after = row(3, "two")
    assert run(batch, {0: [after]}, {3: 5})[3] == bench.expected(after, 5)


@pytest.mark.parametrize("static", [False, True])
def test_an_adapter_that_is_gone_is_refused_and_not_answered_by_the_base(bench, static) -> None:
    model = bench.model(static=static)
    model.adapters.remove("one")
    batch = DecodingBatch(model)
    batch.add([row(1, "one"), row(2, "two"), row(3, "never there")])
    result = batch.round()
    assert (sorted(result.lost), [picked.key for picked in result.picks]) == ([1, 3], [2])


@pytest.mark.parametrize("static", [False, True])
def test_what_lies_in_memory_that_is_nobodys_changes_nothing(bench, static) -> None:
    model = bench.model(tokens=160, size=4, static=static)
    model._cache.storage[:, :, 1:] = float("nan")
    batch = DecodingBatch(model, chunk_tokens=9)
    rows = [row(k, [None, *ADAPTERS][k % 4], p) for k, p in enumerate(prompts(9, most=30))]
    made = run(batch, {0: rows}, dict.fromkeys(range(9), 12))
    for each in rows:
        assert made[each.key] == bench.expected(each, 12)


@pytest.mark.parametrize("static", [False, True])
def test_what_another_has_left_behind_changes_nothing(bench, static) -> None:
    """An adapter that diverged fills its blocks with NaN; the next ones have them."""
    model = bench.model(tokens=64, static=static)
    broken = model.adapters.slots.weights(model.adapters.slot("three"))
    for view in broken.values():
        view.fill_(float("nan"))
    batch = DecodingBatch(model)
    rows = [row(1, "three", [5] * 30), row(2, "three", [6] * 20)]
    run(batch, {0: rows}, {1: 8, 2: 8})
    assert torch.isnan(model._cache.storage[:, :, 1:]).any()
    for key, adapter in enumerate([None, "one", "two"]):
        asked = row(key, adapter, [7] * 21)
        company = row(9, "three", [8] * 17)
        made = run(batch, {0: [asked, company]}, {key: 10, 9: 3})
        assert made[key] == bench.expected(asked, 10)


def test_a_generation_step_may_come_within_another_pass(bench) -> None:
    """Training pauses between layers, and generation has its turn on the same base."""
    from service.base.segmented.layout import Part

    asked = row(1, "two", [5, 6, 7, 8])
    batch = batch_on(bench)
    batch.add([asked])
    tokens: list[int] = []

    def pause() -> None:
        if len(tokens) < 10:
            tokens.extend(picked.token for picked in batch.round().picks)

    slots = bench.base.slots(capacity=1, rank=4)
    outer = bench.base.batch(slots, [Part(None, (9,))], pause=pause)
    ids = torch.arange(9)
    with bench.base.running(outer):
        hidden = bench.base.hidden(outer, ids)
    undisturbed = bench.base.batch(slots, [Part(None, (9,))])
    with bench.base.running(undisturbed):
        assert torch.equal(hidden, bench.base.hidden(undisturbed, ids))
    assert tokens == bench.expected(asked, 10)


@pytest.mark.parametrize("static", [False, True])
def test_rows_of_very_unequal_length_stand_side_by_side(bench, static) -> None:
    sizes = {0: 190, 1: 3, 2: 5, 3: 60, 4: 1, 5: 2}
    rows = [row(k, [None, *ADAPTERS][k % 4], [7 + k] * n) for k, n in sizes.items()]
    batch = batch_on(bench, static=static)
    made = run(batch, {0: rows}, dict.fromkeys(sizes, 10))
    for each in rows:
        assert made[each.key] == bench.expected(each, 10)
