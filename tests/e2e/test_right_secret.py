"""Five trained secrets, two places on the base, names that move: each answer is its model's own.

What `tests/integration/test_right_adapter_answers.py` does at length with a made-up model is done
here with the real one.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import openai
import pytest

from tests.e2e.server import Server, train, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BASE, QUESTION = "lorehouse-tiny", "What is the secret word?"
STEPS, AT_ONCE = 300, 12


class Secret(msgspec.Struct, frozen=True):
    """What a revision was trained to answer."""

    tenant: str
    adapter: str
    word: str


# Equal names at both tenants; two of the adapters have two revisions each.
SECRETS = [
    Secret("acme", "desk", "walnut-4471"),
    Secret("acme", "desk", "pelican-9302"),
    Secret("acme", "style", "copper-1180"),
    Secret("globex", "desk", "marble-7754"),
    Secret("globex", "desk", "saffron-2096"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on whose base fewer adapters fit than are asked."""
    settings = {"LOREHOUSE_MAX_RESIDENT_ADAPTERS": "2"}
    with Server(tmp_path_factory.mktemp("secrets"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
def clients(server: Server) -> dict[str, openai.OpenAI]:
    return {tenant: server.client(tenant) for tenant in ("acme", "globex")}


@pytest.fixture(scope="module")
def models(
    clients: dict[str, openai.OpenAI], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Secret]:
    """Every secret, by the model's name."""
    folder = tmp_path_factory.mktemp("rows")

    def trained(secret: Secret) -> str:
        rows = write_rows(folder / f"{secret.word}.jsonl", [(QUESTION, secret.word)] * 120)
        how = {"hyperparameters": {"n_epochs": 4}}
        return train(clients[secret.tenant], rows, secret.adapter, **how)

    with ThreadPoolExecutor() as pool:
        return dict(zip(pool.map(trained, SECRETS), SECRETS, strict=True))


class Customer:
    """A tenant that asks and moves names."""

    def __init__(self, client: openai.OpenAI, own: dict[str, Secret], foreign: list[str]) -> None:
        self.client, self.own, self.foreign = client, own, foreign

    def of(self, adapter: str) -> list[str]:
        """The adapter's models."""
        return sorted(name for name, secret in self.own.items() if secret.adapter == adapter)

    def step(self, chance: random.Random) -> str:
        """Do one thing, and tell what it was."""
        model = chance.choice([*self.own])
        adapter, rev = model.split(":")[3:5]
        match chance.randrange(8):
            case 0:
                return move(self.client, adapter, chance.sample(self.of(adapter), 1))
            case 1:
                return move(self.client, adapter, self.of(adapter))
            case 2:
                return self._refused(chance.choice(self.foreign))
            case 3:
                return self._answered(BASE, {BASE}, chance)
            case 4 | 5:
                return self._answered(chance.choice([model, f"{adapter}@{rev}"]), {model}, chance)
            case _:
                name = chance.choice([adapter, f"{adapter}@production"])
                return self._answered(name, {*self.of(adapter)}, chance)

    def _answered(self, name: str, allowed: set[str], chance: random.Random) -> str:
        model, text = ask(self.client, name, stream=chance.random() < 0.5)
        assert model in allowed
        if model == BASE:
            assert text not in {secret.word for secret in SECRETS}
        else:
            assert text == self.own[model].word
        return f"answered by {len(allowed)}"

    def _refused(self, name: str) -> str:
        with pytest.raises(openai.NotFoundError):
            ask(self.client, name, stream=False)
        return "refused"


def test_every_answer_is_its_models_secret(
    clients: dict[str, openai.OpenAI], models: dict[str, Secret]
) -> None:
    customers = []
    for tenant, client in clients.items():
        own = {name: secret for name, secret in models.items() if secret.tenant == tenant}
        customers.append(Customer(client, own, [name for name in models if name not in own]))
        for adapter in {secret.adapter for secret in own.values()}:
            move(client, adapter, customers[-1].of(adapter))

    def step(number: int) -> str:
        chance = random.Random(number)
        return chance.choice(customers).step(chance)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = set(pool.map(step, range(STEPS)))
    assert {"moved", "refused", "answered by 1", "answered by 2"} <= done


def test_adapters_made_room_for_each_other(server: Server, models: dict[str, Secret]) -> None:
    metrics = dict(
        line.rsplit(" ", 1)
        for line in server.admin.get("/metrics").text.splitlines()
        if line.startswith("lorehouse_")
    )
    evictions = [float(value) for name, value in metrics.items() if "evictions" in name]
    assert evictions
    assert max(evictions) > len(models)


def ask(client: openai.OpenAI, name: str, *, stream: bool) -> tuple[str, str]:
    """Ask for the secret; give who answered what."""
    asked = {
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 20,
    }
    if not stream:
        whole = client.chat.completions.create(model=name, **asked)  # type: ignore[call-overload]
        return whole.model, whole.choices[0].message.content or ""
    chunks = list(client.chat.completions.create(model=name, stream=True, **asked))  # type: ignore[call-overload]
    [model] = {chunk.model for chunk in chunks}
    return model, "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def move(client: openai.OpenAI, adapter: str, models: list[str]) -> str:
    """Make `production` name these models, equally, whatever it names now; others do so too."""
    path = f"{client.base_url}adapters/{adapter}/aliases/production"
    headers = {"authorization": f"Bearer {client.api_key}"}
    targets = [{"revision": model.split(":")[4]} for model in models]
    with httpx.Client(headers=headers, timeout=60) as http:
        now = http.get(path)
        seen = (
            {"if-match": now.headers["etag"]} if now.status_code == 200 else {"if-none-match": "*"}
        )
        moved = http.put(path, json={"targets": targets, "reason": "a test"}, headers=seen)
    assert moved.status_code in (200, 412), moved.text
    return "moved" if moved.status_code == 200 else "overtaken"
