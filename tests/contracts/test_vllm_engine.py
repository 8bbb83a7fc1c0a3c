"""What only vLLM can get wrong, and what stands between that and an answer."""

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from adapters_store import FilesystemAdapterStore
from service.errors import BadRequest, EngineUnavailable
from tests.contracts.engines import MAX_QUEUE, House, resident, tiny_revisions, vllm
from tests.vllm_core import Core

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.vllm
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm", allow_module_level=True)

from service.serving.check_adapters import publish_random  # noqa: E402
from service.serving.self_check import MixedUp  # noqa: E402
from service.serving.vllm.checked import checked  # noqa: E402

CPU = not torch.cuda.is_available()
ROUNDING = 0.001 if CPU else 0.2
PROMPTS = [[5, 6, 7, 8, 9], [30, 31, 32], [60] * 200]


@pytest.fixture
async def house(tmp_path: Path, vllm_core: Core) -> AsyncIterator[House]:
    async with vllm(tmp_path, vllm_core) as house:
        yield house


async def test_with_every_place_filled_the_base_answers_for_itself(house: House) -> None:
    alone = (await house.answer()).text
    for first, second in (house.refs[:2], house.refs[1:]):
        for ref in (first, second):
            await house.answer(ref)
        # Beside the one in the last place that is filled, and beside the other.
        for other in (first, second):
            company = await asyncio.gather(house.answer(), house.answer(other), house.answer())
            assert [company[0].text, company[2].text] == [alone, alone]


@pytest.mark.skipif(CPU, reason="builds for CPUs cannot sleep")
async def test_asleep_it_leaves_the_card_and_awake_it_answers_as_before(
    house: House, vllm_core: Core
) -> None:
    core = vllm_core
    revisions = [None, *house.refs[:2]]
    before = [(await house.answer(ref)).text for ref in revisions]
    free = torch.cuda.mem_get_info()[0]
    await core.there(core.llm.sleep(level=1))
    assert torch.cuda.mem_get_info()[0] > free
    await core.there(core.llm.wake_up())
    assert [(await house.answer(ref)).text for ref in revisions] == before


async def test_it_passes_the_check_that_precedes_every_start(vllm_core: Core) -> None:
    core = vllm_core
    await core.there(checked(core.llm, core.renderer, core.options, core.dtype))
    assert not await core.there(core.llm.list_loras()), "it is as it was"


async def test_the_check_refuses_an_engine_whose_last_slot_is_filled(
    vllm_core: Core, tmp_path: Path
) -> None:
    if not CPU:
        pytest.skip("only builds for CPUs are known to read -1 as the last slot")
    core = vllm_core
    unguarded = replace(core.options, max_resident=core.options.slots, guards=0)
    with pytest.raises(MixedUp, match="the base was answered by"):
        await core.there(checked(core.llm, core.renderer, unguarded, core.dtype))
    # What an adapter leaves behind in that slot would answer too: zeros take its place.
    store = FilesystemAdapterStore(tmp_path / "blank")
    blank = publish_random(store, core.base, core.options.slots, effect=0.0)
    async with core.serving(store, tmp_path, unguarded) as engine:
        for ref in blank:
            await House(engine, store, blank).answer(ref)
    await core.there(checked(core.llm, core.renderer, core.options, core.dtype))


async def test_it_scores_as_the_engine_does_that_jobs_are_trained_beside(
    house: House, tmp_path: Path
) -> None:
    async with resident(tmp_path / "other") as other:
        for one, same in zip([None, *house.refs], [None, *other.refs], strict=True):
            found = await house.engine.score(one, PROMPTS)
            expected = await other.engine.score(same, PROMPTS)
            for mine, theirs in zip(found, expected, strict=True):
                assert mine == pytest.approx(theirs, abs=ROUNDING)


async def test_penalties_count_within_the_apis_bounds_and_are_refused_beyond(house: House) -> None:
    prompt = [5 + ord(letter) for letter in "hello there"]
    first, second, left = await _rivals(house, prompt)
    # Alone in front of all others, and the first by one in front of the second, once it was said.
    bias = {first: 100.0, second: 99.0 + left}
    wishes: dict[str, Any] = {"logit_bias": bias, "logprobs": 0, "max_tokens": 2}
    assert await _said(house, **wishes) == [first, first]
    for field in ("presence_penalty", "frequency_penalty"):
        assert await _said(house, **wishes, **{field: 2.0}) == [first, second]
        with pytest.raises(BadRequest) as caught:
            await house.answer(**{field: 2.1})
        assert caught.value.param == field


async def test_nobody_else_is_ever_known_by_a_revisions_number(house: House) -> None:
    first, second, _ = house.refs
    asked = replace(house.request(first), engine_id=7)
    assert (await house.choices(asked))[0].text == (await house.answer(first)).text
    for revision, number in ((second, 7), (first, 8)):
        with pytest.raises(EngineUnavailable, match="has another already"):
            await house.choices(replace(house.request(revision), engine_id=number))


async def test_an_adapter_of_too_great_a_rank_is_refused(vllm_core: Core, tmp_path: Path) -> None:
    from tests.fakes.tiny import publish

    store, _ = tiny_revisions(tmp_path, vllm_core.base)
    ref = publish(store, vllm_core.base, "acme", "great", seed=9, rank=17)
    async with vllm_core.serving(store, tmp_path, vllm_core.options, MAX_QUEUE) as engine:
        with pytest.raises(Exception, match="its rank is 17; 16 is the most here"):
            await House(engine, store, [ref]).answer(ref)


async def test_a_grammar_is_kept_to(house: House, vllm_core: Core) -> None:
    end = vllm_core.renderer.tokenizer.token_to_id(vllm_core.base.special_tokens["eos_token"])
    for ref in (None, house.refs[0]):
        wishes = {"structure": 'start: "yes" | "no"', "stop_token_ids": (end,), "max_tokens": 20}
        answer = await house.answer(ref, **wishes)
        assert answer.text in {"yes", "no"}
        assert answer.finish_reason == "stop"


async def _said(house: House, **wishes: Any) -> list[int]:
    return [token.token_id for token in (await house.answer(**wishes)).logprobs]


async def _rivals(house: House, prompt: list[int]) -> tuple[int, int, float]:
    """Find two tokens, and by how much the first leads once it was said.

    Its lead may not have been less by a whole logit before.
    """
    [token] = (await house.answer(logprobs=5, max_tokens=1)).logprobs
    for first, second in permutations([other.token_id for other in token.top], 2):
        ends = [[first], [second], [first, first], [first, second]]
        scores = await house.engine.score(None, [[*prompt, *end] for end in ends])
        one, other, once_more, instead = [each[-1] for each in scores]
        if one - other > once_more - instead - 0.5:
            return first, second, once_more - instead
    raise AssertionError("no two of them")
