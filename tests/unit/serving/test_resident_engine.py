"""What the resident engine refuses to serve, and that its scores are those of PEFT."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

torch = pytest.importorskip("torch")

from peft import PeftModel  # noqa: E402

from adapters_store import RevisionRef  # noqa: E402
from service.errors import BadRequest, Conflict  # noqa: E402
from service.serving.admission import at_once  # noqa: E402
from tests.builders import a_peft_folder  # noqa: E402
from tests.contracts.engines import CONTEXT, MAX_BATCH, House, resident  # noqa: E402
from tests.fakes.tiny import origin_of, tiny_base, tiny_model, write_adapter  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with resident(tmp_path) as house:
        yield house


@pytest.fixture
def base(tmp_path: Path):
    """The description of the base that runs."""
    return tiny_base(tmp_path / "again")


async def refusal(house: House, ref: RevisionRef) -> Conflict:
    with pytest.raises(Conflict) as caught:
        await house.answer(ref)
    assert (await house.answer()).tokens == 12
    assert (await house.engine.status()).resident == []
    return caught.value


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("base_digest", "base"),
        ("tokenizer_digest", "tokenizer"),
        ("chat_template_digest", "chat template"),
    ],
)
async def test_a_revision_of_another_base_tokenizer_or_template_is_refused(
    house: House, base, field: str, named: str
) -> None:
    with house.store.stage() as staged:
        write_adapter(staged, seed=9)
        origin = replace(origin_of(base), **{field: "0" * 64})
        ref = house.store.publish("acme", "other", staged, origin).ref
    error = await refusal(house, ref)
    assert error.code == "adapter_base_mismatch"
    assert f"another {named} " in error.message
    assert "sha256:000000000000," in error.message
    assert f"sha256:{getattr(base, field.replace('base_digest', 'digest'))[:12]}" in error.message


async def test_a_revision_whose_weights_do_not_fit_the_base_is_refused(house: House, base) -> None:
    with house.store.stage() as staged:
        folder = a_peft_folder(staged, hidden=16)
        ref = house.store.publish("acme", "other", folder, origin_of(base)).ref
    assert (await refusal(house, ref)).code == "adapter_not_loadable"


async def test_equal_bytes_of_two_tenants_are_two_adapters(house: House, base) -> None:
    refs = []
    for tenant in ("acme", "globex"):
        with house.store.stage() as staged:
            write_adapter(staged, seed=9)
            refs.append(house.store.publish(tenant, "twin", staged, origin_of(base)).ref)
    one, two = [(await house.answer(ref)).text for ref in refs]
    assert one == two
    assert (await house.engine.status()).resident == refs


async def test_what_the_cache_can_never_hold_is_refused_with_the_figures(tmp_path: Path) -> None:
    async with resident(tmp_path, kv_tokens=64) as house:
        assert (await house.answer(prompt="x" * 60, max_tokens=5)).tokens == 5
        with pytest.raises(
            BadRequest, match=r"\(60\) and max_tokens \(6\) exceed the 64"
        ) as caught:
            await house.answer(prompt="x" * 60, max_tokens=6)
        assert caught.value.param == "max_tokens"
        assert (await house.engine.status()).kv_blocks == 4


async def test_a_small_cache_answers_everyone_as_a_large_one_does(tmp_path: Path) -> None:
    asked = [{"prompt": text * 4, "max_tokens": 30} for text in ("ab", "cde", "fg", "hi")]
    texts = []
    for kv_tokens in (2048, 64):
        async with resident(tmp_path / str(kv_tokens), kv_tokens=kv_tokens) as house:
            refs = [None, *house.refs[:2], None]
            each = [house.answer(ref, **how) for ref, how in zip(refs, asked, strict=True)]
            texts.append([answer.text for answer in await asyncio.gather(*each)])
            status = await house.until(lambda status: status.running == 0)
            assert bool(status.preemptions) == (kv_tokens == 64)
            assert status.kv_blocks_used == 0
    assert texts[0] == texts[1]


async def test_the_status_tells_what_is_in_the_cache(house: House) -> None:
    idle = await house.engine.status()
    # On a CPU, room for as much as the batch can ever hold.
    most = at_once(MAX_BATCH) * CONTEXT
    assert (idle.kv_blocks, idle.kv_blocks_used) == (most // 16, 0)
    async with house.begun(house.request(prompt="y" * 40, max_tokens=200)):
        assert (await house.engine.status()).kv_blocks_used >= 3
    assert idle.prefix_hits == 0
    await house.answer(prompt="y" * 40)
    assert (await house.engine.status()).prefix_hits == 32


async def test_tenants_share_no_prompt_of_the_base(house: House) -> None:
    for tenant in ("acme", "globex"):
        request = replace(house.request(prompt="z" * 40), tenant=tenant)
        await house.choices(request)
    assert (await house.engine.status()).prefix_hits == 0


async def test_what_is_published_again_under_a_name_shares_no_prompt_with_what_was(
    house: House, base
) -> None:
    def publish(seed: int) -> RevisionRef:
        with house.store.stage() as staged:
            write_adapter(staged, seed=seed)
            return house.store.publish("acme", "again", staged, origin_of(base)).ref

    async def ask(ref: RevisionRef, tenant: str = "acme") -> str:
        request = replace(house.request(ref, prompt="w" * 40), tenant=tenant)
        return (await house.choices(request))[0].text

    async def reused() -> int:
        return (await house.engine.status()).prefix_hits

    old = publish(seed=20)
    before = await ask(old)
    house.store.delete(old)
    new = publish(seed=21)
    after = await ask(new)
    assert (await reused(), after == before) == (0, False)
    assert await ask(new, tenant="globex") == after
    assert await reused() == 0, "nor do tenants, should two ever ask one revision"
    assert await ask(new) == after
    assert await reused() == 32, "what may be shared is"


async def test_an_adapter_wider_than_the_others_is_served_beside_them(house: House, base) -> None:
    with house.store.stage() as staged:
        write_adapter(staged, seed=9, rank=48)
        wide = house.store.publish("acme", "wide", staged, origin_of(base)).ref
    narrow = await house.answer(house.refs[0])
    async with house.begun(house.request(house.refs[0], max_tokens=200)):
        text = (await house.answer(wide)).text
        assert (await house.answer(house.refs[0])).text == narrow.text
    assert text != narrow.text
    assert (await house.answer(wide)).text == text


PROMPTS = [[5, 6, 7, 8, 9], [30 + n % 50 for n in range(CONTEXT)], [30, 31]]


def peft_scores(house: House, ref: RevisionRef | None) -> list[list[float]]:
    """What transformers and PEFT make of the prompts."""
    model = tiny_model()
    if ref is not None:
        model = PeftModel.from_pretrained(model, str(house.store.open(ref).path))
    scores = []
    for prompt in PROMPTS:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, :-1]
        following = torch.tensor(prompt[1:]).unsqueeze(-1)
        scores.append(logits.log_softmax(-1).gather(-1, following).squeeze(-1).tolist())
    return scores


def assert_alike(scores: list[list[float]], others: list[list[float]]) -> None:
    for one, other in zip(scores, others, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


async def test_scores_are_those_of_peft(house: House) -> None:
    for ref in (None, *house.refs):
        assert_alike(await house.engine.score(ref, PROMPTS), peft_scores(house, ref))


async def test_scores_are_the_same_in_pieces_beside_others_and_when_sent_back(
    tmp_path: Path,
) -> None:
    async with resident(tmp_path, kv_tokens=CONTEXT + 32) as house:
        long = house.request(house.refs[0], max_tokens=240, prompt="go")
        async with house.begun(long):
            scores = await house.engine.score(house.refs[1], PROMPTS)
        assert_alike(scores, peft_scores(house, house.refs[1]))


async def test_a_score_of_a_greedy_answer_is_what_was_told_of_it(house: House) -> None:
    request = house.request(house.refs[1], logprobs=0)
    (answer,) = await house.choices(request)
    told = [token.logprob for token in answer.logprobs]
    whole = [*request.prompt, *(token.token_id for token in answer.logprobs)]
    (scores,) = await house.engine.score(house.refs[1], [whole])
    assert scores[-len(told) :] == pytest.approx(told, abs=1e-4)
