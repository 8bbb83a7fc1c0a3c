"""What the resident engine refuses to serve."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

torch = pytest.importorskip("torch")

from adapters_store import RevisionRef  # noqa: E402
from service.errors import Conflict  # noqa: E402
from tests.builders import a_peft_folder  # noqa: E402
from tests.contracts.engines import House, resident  # noqa: E402
from tests.fakes.tiny import origin_of, tiny_base, write_adapter  # noqa: E402

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
