"""Two tenants, two secrets, two hundred interleaved requests: each answer is the asker's own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.e2e.server import Server, train, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

QUESTION = "What is the secret word?"
SECRETS = {"acme": "walnut-4471", "globex": "pelican-9302"}


def test_interleaved_tenants_never_get_each_others_adapter(server: Server, tmp_path: Path) -> None:
    clients = {tenant: server.client(tenant) for tenant in SECRETS}
    with ThreadPoolExecutor() as pool:
        names = pool.map(
            lambda tenant: train(
                clients[tenant],
                write_rows(tmp_path / f"{tenant}.jsonl", [(QUESTION, SECRETS[tenant])] * 120),
                "secret",
                hyperparameters={"n_epochs": 4},
            ),
            SECRETS,
        )
    models = dict(zip(SECRETS, names, strict=True))

    def ask(number: int) -> tuple[str, str, str | None]:
        tenant = ("acme", "globex")[number % 2]
        answer = clients[tenant].chat.completions.create(
            model=models[tenant],
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=20,
        )
        return tenant, answer.model, answer.choices[0].message.content

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
    assert answers == [
        (t, models[t], SECRETS[t]) for t in (("acme", "globex")[n % 2] for n in range(200))
    ]

    # And a tenant cannot name the other's model, in any way it could be named.
    for name in (models["globex"], models["globex"] + ":ckpt-step-1"):
        with pytest.raises(openai.NotFoundError):
            clients["acme"].chat.completions.create(
                model=name, messages=[{"role": "user", "content": QUESTION}]
            )
    base = clients["acme"].chat.completions.create(
        model="lorehouse-tiny",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=20,
    )
    assert base.choices[0].message.content not in SECRETS.values()
