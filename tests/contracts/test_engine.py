"""What every engine promises, whatever it runs on."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters_store import RevisionRef
from service.errors import BadRequest, EngineUnavailable, NotFound, ServiceError
from tests.contracts.engines import CONTEXT, House, fake, remote, resident


@pytest.fixture(params=["fake", "remote", pytest.param("resident", marks=pytest.mark.torch)])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    make = {"fake": fake, "remote": remote, "resident": resident}[request.param]
    async with make(tmp_path) as house:
        yield house


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


@pytest.mark.parametrize("wrong", [{"prompt": ""}, {"max_tokens": 0}, {"temperature": -1.0}])
async def test_a_wrong_request_is_refused_and_the_others_go_on(house: House, wrong) -> None:
    good = asyncio.create_task(house.answer())
    with pytest.raises(BadRequest):
        await house.answer(**wrong)
    assert (await good).finish_reason == "length"


async def test_every_choice_is_made_and_finished_once(house: House) -> None:
    answers = await house.choices(house.request(house.refs[0], n=3, temperature=1.0, seed=1))
    assert [answer.tokens for answer in answers] == [12, 12, 12]
    assert len({answer.text for answer in answers}) == 3


async def test_more_choices_than_places_are_made_one_after_another(house: House) -> None:
    answers = await house.choices(house.request(n=9, max_tokens=3))
    assert len(answers) == 9
    assert len({answer.text for answer in answers}) == 1


async def test_a_seed_gives_the_same_choices_in_any_company(house: House) -> None:
    request = house.request(house.refs[1], n=2, temperature=1.2, top_p=0.9, seed=11)
    alone = await house.choices(request)
    others = [house.answer(ref, temperature=1.0) for ref in (None, house.refs[0])]
    company, *_ = await asyncio.gather(house.choices(request), *others)
    assert [answer.text for answer in company] == [answer.text for answer in alone]


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
    stop = whole.text[8:12]
    cut = await house.answer(logprobs=0, max_tokens=20, stop=(stop,))
    said = b"".join(bytes(token.bytes) for token in cut.logprobs).decode(errors="replace")
    assert stop not in said
    assert whole.logprobs[: len(cut.logprobs)] == cut.logprobs


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
        waiting = [asyncio.create_task(house.answer(max_tokens=2)) for _ in range(3)]
        await house.until(lambda status: status.waiting == 3)
        with pytest.raises(EngineUnavailable):
            await house.answer()
    assert [answer.tokens for answer in await asyncio.gather(*waiting)] == [2, 2, 2]


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


async def test_status_tells_what_runs(house: House) -> None:
    idle = await house.engine.status()
    assert (idle.ready, idle.running, idle.waiting, idle.resident) == (True, 0, 0, [])
    async with house.begun(house.request(house.refs[0], max_tokens=200)):
        busy = await house.engine.status()
        assert (busy.running, busy.resident) == (1, [house.refs[0]])
        assert busy.generated_tokens > idle.generated_tokens


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
