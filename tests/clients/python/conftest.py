"""What every client has: an address and a key in the environment, as its user would give them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI


@pytest.fixture(scope="session")
def model() -> str:
    """The exact name of a model that says `marmalade-7` when asked for the secret word."""
    return os.environ["CLIENTS_MODEL"]


@pytest.fixture(scope="session")
def job() -> str:
    """The job that made the model."""
    return os.environ["CLIENTS_JOB"]


@pytest.fixture(scope="session")
def limited_key() -> str:
    """A key of a tenant that may ask once a minute."""
    return os.environ["CLIENTS_LIMITED_KEY"]


@pytest.fixture(scope="session")
def client() -> Iterator[OpenAI]:
    """The SDK, as it is by default."""
    with OpenAI() as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A small training file."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Say it:", "completion": " blue"}\n' * 40)
    return path
