"""What every engine promises, whatever it runs on."""

import asyncio
import importlib.util
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from adapters_store import RevisionRef
from service.errors import (
    BadRequest,
    Conflict,
    EngineBusy,
    EngineUnavailable,
    NotFound,
    ServiceError,
)
from service.serving.engine import TokenLogprob
from service.serving.lark import document
from tests.contracts.engines import CONTEXT, Answer, House, fake, remote, resident, vllm

Make = Callable[[Path], AbstractAsyncContextManager[House]]
ENGINES: list[Any] = ["fake", "remote", pytest.param("resident", marks=pytest.mark.torch)]
if importlib.util.find_spec("vllm"):
    ENGINES.append(pytest.param("vllm", marks=pytest.mark.vllm))


ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "state": {"enum": ["open", "paid"]},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        "urgent": {"type": "boolean"},
    },
    "required": ["state", "notes", "urgent"],
    "additionalProperties": False,
}


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Make:
    """How to make a house with the engine of this name."""
    if request.param == "vllm":
        return partial(vllm, core=request.getfixturevalue("vllm_core"))
    return {"fake": fake, "remote": remote, "resident": resident}[request.param]


@pytest.fixture
async def house(make: Make, tmp_path: Path) -> AsyncIterator[House]:
    async with make(tmp_path) as house:
        yield house


def said(answer: Answer) -> list[int]:
    return [token.token_id for token in answer.logprobs]


async def likeliest(house: House) -> list[TokenLogprob]:
    """The likeliest tokens at the second place of the greedy answer."""
    second: TokenLogprob = (await house.answer(logprobs=5)).logprobs[1]
    return second.top


async def test_each_adapter_and_the_base_give_their_own_greedy_answer(house: House) -> None:
    targets = [None, *house.refs]
    texts = [(await house.answer(ref)).text for ref in targets]
    assert len(set(texts)) == 4
    assert texts == [(await house.answer(ref)).text for ref in targets]


async def test_a_mixed_batch_gives_everyone_the_answer_they_get_alone(house: House) -> None:
    asked = [(ref, prompt) for prompt in ("hi", "tell me more") for ref in (None, *house.refs)]
    alone = [(await house.answer(ref, prompt=prompt)).text for ref, prompt in asked]
    for _ in range(3):
        company = []
        # As many as the queue takes at once; the adapters are more than there is room for.
        for at in range(0, len(asked), 4):
            four = [house.answer(ref, prompt=prompt) for ref, prompt in asked[at : at + 4]]
            company += [answer.text for answer in await asyncio.gather(*four)]
        assert company == alone


async def test_it_stops_at_max_tokens(house: House) -> None:
    for length in (1, 7):
        answer = await house.answer(max_tokens=length)
        assert (answer.tokens, answer.finish_reason) == (length, "length")


async def test_a_prompt_may_fill_the_context_and_no_more(house: House) -> None:
    prompt = "x" * (CONTEXT - 3)
    assert (await house.answer(prompt=prompt, max_tokens=3)).tokens == 3
    with pytest.raises(BadRequest):
        await house.answer(prompt=prompt, max_tokens=4)
    assert (await house.answer()).text


WRONG = [
    {"prompt": ""},
    {"max_tokens": 0},
    {"temperature": -1.0},
    {"top_p": 0.0},
    {"top_k": -1},
    {"min_p": 1.1},
    {"presence_penalty": math.nan},
    {"frequency_penalty": math.inf},
    {"repetition_penalty": 0.0},
    {"logit_bias": {1 << 20: 1.0}},
    {"logit_bias": {-1: 1.0}},
    {"logit_bias": {1: math.nan}},
    {"stop_token_ids": (1 << 20,)},
    {"min_tokens": 13},
]


async def test_a_wrong_request_is_refused_and_the_others_go_on(house: House) -> None:
    for wrong in WRONG:
        good = asyncio.create_task(house.answer())
        with pytest.raises(BadRequest):
            await house.answer(**wrong)
        assert (await good).finish_reason == "length", wrong


async def test_every_choice_is_made_and_finished_once(house: House) -> None:
    answers = await house.choices(house.request(house.refs[0], n=3, temperature=1.0, seed=1))
    assert [answer.tokens for answer in answers] == [12, 12, 12]
    assert len({answer.text for answer in answers}) == 3


async def test_more_choices_than_places_are_made_one_after_another(house: House) -> None:
    answers = await house.choices(house.request(n=9, max_tokens=3))
    assert len(answers) == 9
    assert len({answer.text for answer in answers}) == 1


WISHES = [
    {"top_p": 0.9},
    {"top_k": 40},
    {"min_p": 0.05},
    {"frequency_penalty": 0.8, "presence_penalty": -0.4},
    {"repetition_penalty": 1.3},
    {"logit_bias": dict.fromkeys(range(20, 60), 3.0)},
]


@pytest.mark.parametrize("wishes", WISHES)
async def test_a_seed_gives_the_same_choices_in_any_company(house: House, wishes) -> None:
    request = house.request(house.refs[1], n=2, temperature=1.2, seed=11, **wishes)
    alone = await house.choices(request)
    others = [
        house.answer(None, temperature=1.0, top_k=3, presence_penalty=1.0),
        house.answer(house.refs[0], temperature=0.8, logit_bias={30: 50.0}, logprobs=5),
    ]
    company, *_ = await asyncio.gather(house.choices(request), *others)
    assert [answer.text for answer in company] == [answer.text for answer in alone]


@pytest.mark.parametrize("wishes", [{"top_k": 1}, {"min_p": 1.0}])
async def test_whoever_leaves_one_token_gets_the_greedy_answer(house: House, wishes) -> None:
    greedy = await house.answer(house.refs[0])
    assert (await house.answer(house.refs[0], temperature=2.0, **wishes)).text == greedy.text


async def test_a_token_that_is_biased_away_is_not_said(house: House) -> None:
    usual = said(await house.answer(logprobs=0))
    other = said(await house.answer(logprobs=0, logit_bias=dict.fromkeys(usual, -100.0)))
    assert len(other) == 12
    assert not set(other) & set(usual)


async def test_a_token_that_is_biased_for_is_said_until_a_penalty_outweighs_it(
    house: House,
) -> None:
    house.needs_penalties_beyond_the_apis()
    [first, second, *_] = [token.token_id for token in await likeliest(house)]
    bias = {first: 100.0, second: 90.0}
    assert said(await house.answer(logprobs=0, logit_bias=bias)) == [first] * 12
    for penalty in ("presence_penalty", "frequency_penalty"):
        wishes = {"logit_bias": bias, penalty: 1000.0, "max_tokens": 6}
        assert said(await house.answer(logprobs=0, **wishes))[:2] == [first, second]
        assert len(set(said(await house.answer(logprobs=0, **wishes)))) == 6


async def test_frequency_adds_up_and_presence_does_not(house: House) -> None:
    house.needs_penalties_beyond_the_apis()
    [first, *_] = [token.token_id for token in await likeliest(house)]
    wishes = {"logit_bias": {first: 100.0}, "logprobs": 0}
    assert said(await house.answer(presence_penalty=30.0, **wishes)) == [first] * 12
    assert 1 < said(await house.answer(frequency_penalty=30.0, **wishes)).count(first) < 12


async def test_a_repetition_is_penalised_whether_generated_or_of_the_prompt(house: House) -> None:
    [first, second, *_] = [token.token_id for token in await likeliest(house)]
    wishes = {"logit_bias": {first: 100.0, second: 80.0}, "repetition_penalty": 2.0}
    request = house.request(logprobs=0, max_tokens=2, **wishes)
    assert said((await house.choices(request))[0]) == [first, second]
    known = msgspec.structs.replace(request, prompt=[*request.prompt, first])
    assert said((await house.choices(known))[0])[0] == second


async def test_a_stop_token_ends_the_text_before_itself(house: House) -> None:
    whole = await house.answer(logprobs=0)
    stop = said(whole)[5]
    place = said(whole).index(stop)
    cut = await house.answer(logprobs=0, stop_token_ids=(stop,))
    assert said(cut) == said(whole)[:place]
    assert (cut.tokens, cut.finish_reason) == (place + 1, "stop")


async def test_no_stop_token_is_picked_before_so_many_tokens(house: House) -> None:
    [first, *_] = [token.token_id for token in await likeliest(house)]
    wishes = {"stop_token_ids": (first,), "logit_bias": {first: 100.0}}
    assert (await house.answer(**wishes)).tokens == 1
    later = await house.answer(logprobs=0, min_tokens=4, **wishes)
    assert (later.tokens, later.finish_reason, len(said(later))) == (5, "stop", 4)
    assert first not in said(later)


async def test_another_seed_or_none_gives_other_choices(house: House) -> None:
    seeds = [1, 2, None, None]
    texts = {(await house.answer(temperature=1.0, seed=seed)).text for seed in seeds}
    assert len(texts) == 4


async def test_a_stop_string_ends_the_text_before_itself(house: House) -> None:
    whole = (await house.answer(max_tokens=40)).text
    for stop in (whole[7:10], whole[20:30], whole[:1]):
        request = house.request(max_tokens=40, stop=(stop,))
        pieces = [piece async for piece in house.engine.generate(request)]
        assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
        assert pieces[-1].finish_reason == "stop"
        assert pieces[-1].tokens < 40


async def test_a_stop_string_that_does_not_come_changes_nothing(house: House) -> None:
    whole = await house.answer()
    other = await house.answer(stop=("this is not said", whole.text[-1] + "~"))
    assert (other.text, other.finish_reason) == (whole.text, "length")


async def test_logprobs_are_those_of_the_tokens_of_the_text(house: House) -> None:
    answer = await house.answer(house.refs[0], logprobs=3)
    assert len(answer.logprobs) == 12
    said = b"".join(bytes(token.bytes) for token in answer.logprobs)
    assert said.decode(errors="replace") == answer.text
    for token in answer.logprobs:
        assert len(token.top) == 3
        assert math.fsum(math.exp(other.logprob) for other in token.top) <= 1 + 1e-4
        assert token.logprob == max(other.logprob for other in token.top), "greedy takes the best"


async def test_logprobs_come_only_to_who_asks(house: House) -> None:
    pieces = [piece async for piece in house.engine.generate(house.request())]
    assert {piece.logprobs for piece in pieces} == {None}
    alone = await house.answer(logprobs=0)
    assert all(token.top == [] for token in alone.logprobs)


async def test_logprobs_of_a_stop_string_are_left_out(house: House) -> None:
    whole = await house.answer(logprobs=0, max_tokens=20)
    # From a token's beginning on: one that is cut by a stop string is told of.
    start = len("".join(token.token for token in whole.logprobs[:3]))
    stop = whole.text[start : start + 4]
    cut = await house.answer(logprobs=0, max_tokens=20, stop=(stop,))
    said = b"".join(bytes(token.bytes) for token in cut.logprobs).decode(errors="replace")
    assert stop not in said
    assert whole.logprobs[: len(cut.logprobs)] == cut.logprobs


async def test_an_answer_keeps_to_its_structure_whatever_the_model_wants(house: House) -> None:
    wishes = {"max_tokens": 150, "temperature": 1.0, "seed": 1, "structure": document(ORDER)}
    for ref in (None, house.refs[0]):
        for answer in await house.choices(house.request(ref, n=3, **wishes)):
            jsonschema.validate(json.loads(answer.text), ORDER)
            assert answer.finish_reason == "stop"


async def test_a_structured_answer_that_is_cut_says_so_and_the_others_are_free(
    house: House,
) -> None:
    structured = house.request(max_tokens=1, structure=document(ORDER))
    free = house.request(prompt="hi")
    (cut,), (other,) = await asyncio.gather(house.choices(structured), house.choices(free))
    assert (cut.text[:1], cut.finish_reason) == ("{", "length")
    assert [other] == await house.choices(free)


async def test_a_structure_can_have_special_tokens_and_the_text_shows_them_if_asked(
    house: House,
) -> None:
    if house.special is None:
        pytest.skip("it has words only")
    wishes: dict[str, Any] = {"structure": f'start: "a" <[{house.special}]> "b"', "max_tokens": 20}
    assert (await house.answer(**wishes)).text == "ab"
    assert (await house.answer(**wishes, shown=(house.special,))).text == "a<|im_start|>b"


async def test_a_structure_that_is_none_is_refused(house: House) -> None:
    with pytest.raises(BadRequest):
        await house.answer(structure="start: nobody")
    assert (await house.answer()).finish_reason


async def test_an_iterator_that_is_closed_early_frees_its_place(house: House) -> None:
    long = house.request(max_tokens=200, n=1)
    async with house.begun(long), house.begun(long), house.begun(long), house.begun(long):
        waiting = asyncio.create_task(house.answer(house.refs[0], max_tokens=2))
        await house.until(lambda status: (status.running, status.waiting) == (4, 1))
    assert (await waiting).tokens == 2
    await house.until(lambda status: (status.running, status.waiting) == (0, 0))


async def test_a_cancelled_task_frees_its_place_running_or_waiting(house: House) -> None:
    tasks = [asyncio.create_task(house.answer(max_tokens=200)) for _ in range(6)]
    await house.until(lambda status: status.running > 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await house.until(lambda status: (status.running, status.waiting) == (0, 0))
    assert (await house.answer()).tokens == 12


async def test_beyond_the_queue_a_request_is_refused_at_once(house: House) -> None:
    long = house.request(max_tokens=200)
    async with house.begun(long), house.begun(long), house.begun(long), house.begun(long):
        waiting = [asyncio.create_task(house.answer(max_tokens=2)) for _ in range(2)]
        await house.until(lambda status: status.waiting == 2)
        with pytest.raises(EngineBusy):
            await house.answer()
        short = house.request(max_tokens=2)
        another = asyncio.create_task(
            house.choices(msgspec.structs.replace(short, tenant="another"))
        )
        await house.until(lambda status: status.waiting == 3 or another.done())
    assert [answer.tokens for answer in await asyncio.gather(*waiting)] == [2, 2]
    assert [answer.tokens for answer in await another] == [2]


async def test_the_first_piece_tells_how_long_the_request_waited(house: House) -> None:
    pieces = [piece async for piece in house.engine.generate(house.request(n=2))]
    assert (pieces[0].queued or -1) >= 0
    assert not any(piece.queued for piece in pieces[1:])


async def test_an_unknown_revision_is_not_found_and_never_the_base(house: House) -> None:
    unknown = RevisionRef("acme", "support", "f" * 64)
    others = RevisionRef("globex", "support", house.refs[0].digest)
    for ref in (unknown, others):
        with pytest.raises(NotFound) as caught:
            await house.answer(ref)
        assert caught.value.code == "model_not_found"
    assert (await house.answer()).text


async def test_a_damaged_revision_fails_its_own_request_only(house: House) -> None:
    weights = house.store.open(house.refs[1]).path / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.chmod(0o600)
    weights.write_bytes(content[:-8] + b"\0" * 8)
    good = [asyncio.create_task(house.answer(ref)) for ref in (None, house.refs[0])]
    with pytest.raises(ServiceError) as caught:
        await house.answer(house.refs[1])
    assert caught.value.status == 409
    assert [answer.tokens for answer in await asyncio.gather(*good)] == [12, 12]
    assert house.refs[1] not in (await house.engine.status()).resident


async def test_an_evicted_adapter_comes_back_the_same(house: House) -> None:
    first = [(await house.answer(ref)).text for ref in house.refs]
    status = await house.until(lambda status: status.running == 0)
    assert status.resident == house.refs[1:]
    assert (status.adapter_loads, status.adapter_evictions) == (3, 1)
    assert [(await house.answer(ref)).text for ref in house.refs] == first
    status = await house.engine.status()
    assert (status.adapter_loads, status.adapter_evictions) == (6, 4)


async def test_an_adapter_in_use_is_not_evicted_and_who_needs_no_room_goes_on(house: House) -> None:
    first, second, third = house.refs
    long = {"max_tokens": 240, "prompt": "go"}
    async with house.begun(house.request(first, **long)) as pieces:
        async with house.begun(house.request(second, **long)):
            waiting = asyncio.create_task(house.answer(third, max_tokens=2))
            await house.until(lambda status: status.waiting == 1)
            assert (await house.answer(None, max_tokens=2)).tokens == 2
            assert (await house.answer(first, max_tokens=2)).tokens == 2
            assert not waiting.done()
        assert (await waiting).tokens == 2
        assert (await anext(pieces)).finish_reason is None


PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [5, 6, 7, 9, 9, 40, 41], [60] * CONTEXT]


async def test_each_adapter_and_the_base_have_their_own_scores(house: House) -> None:
    scores = [await house.engine.score(ref, PROMPTS) for ref in (None, *house.refs)]
    for each in scores:
        assert [len(found) for found in each] == [len(prompt) - 1 for prompt in PROMPTS]
        assert all(math.isfinite(value) and value <= 0 for found in each for value in found)
    firsts = {round(each[0][0], 3) for each in scores}
    assert len(firsts) == 4


async def test_scores_do_not_depend_on_company(house: House) -> None:
    targets = [None, *house.refs]
    alone = [await house.engine.score(ref, PROMPTS) for ref in targets]
    async with house.begun(house.request(house.refs[0], max_tokens=200)):
        company = [await house.engine.score(ref, PROMPTS[:1]) for ref in targets]
    for one, among in zip(alone, company, strict=True):
        assert among[0] == pytest.approx(one[0], abs=1e-4)
    assert (await house.until(lambda status: status.running == 0)).waiting == 0


async def test_what_cannot_be_scored_is_refused(house: House) -> None:
    for wrong in ([], [[]], [[5]], [[5, 6], [7]], [[5, -1]], [[5, 1 << 20]], [[5] * (CONTEXT + 1)]):
        with pytest.raises(BadRequest):
            await house.engine.score(None, wrong)
    for ref in (RevisionRef("acme", "support", "f" * 64), RevisionRef("globex", "style", "0" * 64)):
        with pytest.raises(NotFound) as caught:
            await house.engine.score(ref, PROMPTS)
        assert caught.value.code == "model_not_found"


async def test_a_score_that_nobody_waits_for_any_more_frees_its_place(house: House) -> None:
    tasks = [asyncio.create_task(house.engine.score(ref, PROMPTS)) for ref in house.refs]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # By then it has heard what was left for it before, and not only done nothing yet.
    await house.engine.pin([])
    await house.until(lambda status: (status.running, status.waiting) == (0, 0))
    assert (await house.answer()).tokens == 12


async def test_a_prefetched_adapter_is_there_when_it_is_asked_for(house: House) -> None:
    first, second, third = house.refs
    await house.engine.prefetch(second)
    status = await house.until(lambda status: status.resident == [second])
    assert (status.adapter_loads, status.adapter_hits, status.adapter_misses) == (1, 0, 0)
    await house.answer(second)
    status = await house.until(lambda status: status.running == 0)
    assert (status.adapter_loads, status.adapter_hits, status.adapter_misses) == (1, 1, 0)
    [place] = status.residents
    assert (place.hits, place.leases, place.pinned) == (1, 0, False)
    for ref in (first, third):
        await house.engine.prefetch(ref)
        await house.until(lambda status, ref=ref: ref in status.resident)
    assert (await house.engine.status()).resident == [first, third]


async def test_a_prefetch_takes_no_adapter_from_who_runs(house: House) -> None:
    first, second, third = house.refs
    long = {"max_tokens": 240, "prompt": "go"}
    async with house.begun(house.request(first, **long)):
        async with house.begun(house.request(second, **long)) as pieces:
            await house.engine.prefetch(third)
            assert (await anext(pieces)).finish_reason is None
            assert (await house.engine.status()).resident == [first, second]
        await house.until(lambda status: status.resident == [first, third])


async def test_a_prefetch_that_cannot_be_loaded_is_counted_and_harms_nobody(house: House) -> None:
    await house.engine.prefetch(RevisionRef("acme", "support", "f" * 64))
    await house.until(lambda status: status.adapter_load_failures == 1)
    assert (await house.answer(house.refs[0])).tokens == 12
    status = await house.engine.status()
    assert (status.resident, status.adapter_loads) == ([house.refs[0]], 1)


async def test_a_pinned_adapter_is_loaded_and_stays_until_it_is_not_pinned(house: House) -> None:
    first, second, third = house.refs
    await house.engine.pin([first])
    await house.until(lambda status: status.resident == [first])
    for ref in (second, third, second):
        await house.answer(ref)
        status = await house.until(lambda status: status.running == 0)
        assert [place.ref for place in status.residents if place.pinned] == [first]
        assert status.resident == [first, ref]
    await house.engine.pin([])
    await house.answer(third)
    assert (await house.engine.status()).resident == [second, third]


async def test_other_pins_replace_those_that_were(house: House) -> None:
    first, second, _ = house.refs
    await house.engine.pin([first])
    await house.engine.pin([second])
    status = await house.until(lambda status: second in status.resident)
    assert {place.ref: place.pinned for place in status.residents}[second]
    assert not any(place.pinned for place in status.residents if place.ref == first)


async def test_one_place_at_least_is_left_for_what_is_not_pinned(house: House) -> None:
    await house.engine.pin(house.refs[:1])
    with pytest.raises(Conflict) as caught:
        await house.engine.pin(house.refs[:2])
    assert caught.value.code == "too_many_pins"
    status = await house.until(lambda status: status.resident == house.refs[:1])
    assert [place.pinned for place in status.residents] == [True], "the pins before it hold"


async def test_each_request_is_a_hit_or_a_miss_and_many_for_a_cold_one_load_it_once(
    house: House,
) -> None:
    first, second, _ = house.refs
    await asyncio.gather(*(house.answer(first, max_tokens=2) for _ in range(3)))
    status = await house.until(lambda status: status.running == 0)
    assert (status.adapter_loads, status.adapter_load_failures) == (1, 0)
    assert status.adapter_hits + status.adapter_misses == 3
    assert status.adapter_misses >= 1
    before = status.adapter_hits
    await house.choices(house.request(first, n=3))
    await house.answer(None)
    await house.answer(second)
    status = await house.until(lambda status: status.running == 0)
    assert (status.adapter_hits, status.adapter_loads) == (before + 1, 2)
    assert sum(status.adapter_load_times.counts) == 2


async def test_status_tells_what_runs(house: House) -> None:
    idle = await house.engine.status()
    assert (idle.ready, idle.running, idle.waiting, idle.resident) == (True, 0, 0, [])
    async with house.begun(house.request(house.refs[0], max_tokens=200)):
        busy = await house.engine.status()
        assert (busy.running, busy.resident) == (1, [house.refs[0]])
        [place] = busy.residents
        assert (place.leases, place.state) == (1, "resident")
        assert place.used_at is not None
        assert place.load_seconds is not None
        assert busy.generated_tokens > idle.generated_tokens
    assert (busy.quantization, busy.compute_dtype) == ("none", house.dtype)


async def test_closing_fails_what_is_under_way_and_what_comes_after(house: House) -> None:
    async with house.begun(house.request(max_tokens=200)) as pieces:
        await house.engine.close()
        with pytest.raises(EngineUnavailable):
            async for _ in pieces:
                pass
    with pytest.raises(EngineUnavailable):
        await house.answer()
    with pytest.raises(EngineUnavailable):
        await house.engine.status()
    with pytest.raises(EngineUnavailable):
        await house.engine.prefetch(house.refs[0])
    with pytest.raises(EngineUnavailable):
        await house.engine.pin([])
