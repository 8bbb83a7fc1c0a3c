"""The demonstration data is what its script writes, and its held-out rows are new."""

import json
from pathlib import Path

import pytest

from examples.make_data import HELD_OUT_ROWS, TRAINING_ROWS, write_all

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = [f"{tenant}/{part}.jsonl" for tenant in ("acme", "globex") for part in ("train", "heldout")]


def read_turns(file: str) -> list[tuple[str, str]]:
    """Each row's prompt and answer; a row is exactly these two turns."""
    rows = [json.loads(line)["messages"] for line in (EXAMPLES / file).read_text().splitlines()]
    assert {tuple(turn["role"] for turn in row) for row in rows} == {("user", "assistant")}
    return [(user["content"], assistant["content"]) for user, assistant in rows]


def test_the_script_writes_the_committed_bytes(tmp_path: Path) -> None:
    write_all(tmp_path)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (EXAMPLES / file).read_bytes()


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_row_counts(tenant: str) -> None:
    assert len(read_turns(f"{tenant}/train.jsonl")) == TRAINING_ROWS
    assert len(read_turns(f"{tenant}/heldout.jsonl")) == HELD_OUT_ROWS


def test_no_ticket_stands_in_two_files() -> None:
    prompts = [prompt for file in FILES for prompt, _ in read_turns(file)]
    assert len(set(prompts)) == len(prompts)


def test_the_tenants_answers_differ_in_kind() -> None:
    acme = [answer for _, answer in read_turns("acme/heldout.jsonl")]
    globex = [answer for _, answer in read_turns("globex/heldout.jsonl")]
    assert all(answer.startswith("AQ-") for answer in acme)
    assert all(answer.startswith("GX") for answer in globex)


def test_globex_copies_the_order_from_the_ticket() -> None:
    for prompt, answer in read_turns("globex/train.jsonl"):
        assert answer.split()[1] in prompt
