"""`dpo` and `reinforcement` over HTTP, as OpenAI's clients use them, from the file to the job."""

import json
from typing import Any

import httpx
import msgspec
import pytest
from openai.types.fine_tuning import FineTuningJob

from service.database import Database
from service.jobs.repository import JobRepository
from service.tenants.quotas import Quotas
from service.training.graders.shapes import MultiGrader
from service.training.spec import DpoSpec, TrainingSpec

FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"
ASK = {"role": "user", "content": "What is 2 + 2?"}
PAIR = {
    "input": {"messages": [ASK]},
    "preferred_output": [{"role": "assistant", "content": "4"}],
    "non_preferred_output": [{"role": "assistant", "content": "22"}],
}
PROMPT = {"messages": [ASK], "answer": "4"}
SUPERVISED = {"messages": [ASK, {"role": "assistant", "content": "4"}]}
CHECK = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
NEAR = {
    "type": "text_similarity",
    "name": "near",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "evaluation_metric": "fuzzy_match",
}
BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": CHECK, "near": NEAR},
    "calculate_output": "0.8 * exact + 0.2 * near",
}


async def uploaded(client: httpx.AsyncClient, *rows: dict[str, Any]) -> dict[str, Any]:
    lines = "\n".join(json.dumps(row) for row in rows)
    files = {"file": ("rows.jsonl", lines.encode())}
    answer = await client.post(FILES, files=files, data={"purpose": "fine-tune"})
    assert answer.status_code == 200, answer.text
    file: dict[str, Any] = answer.json()
    return file


async def posted(client: httpx.AsyncClient, file: dict[str, Any], **fields: Any) -> httpx.Response:
    body = {"model": "lorehouse-tiny", "training_file": file["id"]} | fields
    return await client.post(JOBS, json=body)


async def spec_of_the_next(database: Database) -> TrainingSpec:
    async with database.write() as session:
        job = await JobRepository(session).claim("runtime", 15, Quotas())
    assert job is not None
    return msgspec.convert(job.spec, TrainingSpec)


async def test_a_preference_file_becomes_a_dpo_job(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, PAIR, PAIR)
    assert (file["format"], file["rows"]) == ("preference", 2)
    knobs = {"beta": 0.3, "n_epochs": 2, "batch_size": "auto"}
    method = {"type": "dpo", "dpo": {"hyperparameters": knobs, "lora": {"rank": 4}}}
    answer = await posted(acme, file, method=method)
    assert answer.status_code == 200, answer.text
    job = answer.json()
    shown = FineTuningJob.model_validate(job, strict=True)
    assert shown.method is not None
    assert shown.method.type == "dpo"
    assert shown.method.supervised is None
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.3
    assert job["method"]["dpo"]["lora"]["rank"] == 4
    assert job["hyperparameters"] == {
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "n_epochs": 2,
    }
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job
    spec = await spec_of_the_next(database)
    assert (spec.method, spec.dpo, spec.lora.rank) == ("dpo", DpoSpec(beta=0.3), 4)


async def test_prompts_become_a_reinforcement_job(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, PROMPT)
    assert (file["format"], file["rows"]) == ("reinforcement", 1)
    fields = {"grader": BOTH, "hyperparameters": {"compute_multiplier": 0.5}}
    answer = await posted(acme, file, method={"type": "reinforcement", "reinforcement": fields})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["method"]["reinforcement"]["grader"] == BOTH
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job
    chosen = (await spec_of_the_next(database)).reinforcement
    assert chosen is not None
    assert isinstance(chosen.grader, MultiGrader)
    assert chosen.completions == 4


@pytest.mark.parametrize("grader", [CHECK, NEAR])
async def test_a_reinforcement_job_is_openais(
    acme: httpx.AsyncClient, grader: dict[str, Any]
) -> None:
    # The SDK's model of `multi` takes one grader, where OpenAI's guide and server take a mapping.
    file = await uploaded(acme, PROMPT)
    method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    answer = await posted(acme, file, method=method)
    shown = FineTuningJob.model_validate(answer.json(), strict=True)
    assert shown.method is not None
    assert shown.method.reinforcement is not None
    assert shown.method.reinforcement.grader.to_dict() == grader


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ({"type": "supervised"}, PAIR),
        ({"type": "dpo"}, SUPERVISED),
        ({"type": "reinforcement", "reinforcement": {"grader": CHECK}}, PAIR),
        (None, PROMPT),
    ],
)
async def test_a_method_and_rows_that_do_not_suit_each_other_are_both_named(
    acme: httpx.AsyncClient, method: dict[str, Any] | None, row: dict[str, Any]
) -> None:
    file = await uploaded(acme, row)
    answer = await posted(acme, file, method=method)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "training_file"
    assert file["format"] in error["message"]
    assert (method or {"type": "supervised"})["type"] in error["message"]


async def test_a_validation_file_must_suit_too(acme: httpx.AsyncClient) -> None:
    pairs, prompts = await uploaded(acme, PAIR), await uploaded(acme, PROMPT)
    answer = await posted(acme, pairs, method={"type": "dpo"}, validation_file=prompts["id"])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "validation_file"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "grader"),
        ({"grader": {"type": "python", "name": "x", "source": "1"}}, "grader.type"),
        ({"grader": {"type": "score_model", "name": "x", "model": "o3"}}, "grader.type"),
        ({"grader": {"type": "guess", "name": "x"}}, "grader.type"),
        ({"grader": {"name": "x"}}, "grader.type"),
        ({"grader": CHECK | {"operation": "contains"}}, "grader.operation"),
        ({"grader": CHECK | {"strict": True}}, "grader.strict"),
        ({"grader": NEAR | {"evaluation_metric": "meteor"}}, "grader.evaluation_metric"),
        ({"grader": NEAR | {"input": "{{ sample }}"}}, "grader.input"),
        ({"grader": BOTH | {"calculate_output": "exact + other"}}, "grader.calculate_output"),
        (
            {"grader": CHECK, "hyperparameters": {"compute_multiplier": 100}},
            "hyperparameters.compute_multiplier",
        ),
        (
            {"grader": CHECK, "hyperparameters": {"reasoning_effort": "high"}},
            "hyperparameters.reasoning_effort",
        ),
        ({"grader": CHECK, "response_format": {"type": "json_object"}}, "response_format"),
        ({"grader": CHECK, "max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
async def test_what_reinforcement_cannot_honour_is_400_by_name(
    acme: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    file = await uploaded(acme, PROMPT)
    method = {"type": "reinforcement", "reinforcement": fields}
    answer = await posted(acme, file, method=method)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == f"method.reinforcement.{param}"
    assert error["type"] == "invalid_request_error"


async def test_an_unusable_beta_is_400_by_name(acme: httpx.AsyncClient) -> None:
    file = await uploaded(acme, PAIR)
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": -1}}}
    answer = await posted(acme, file, method=method)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "method.dpo.hyperparameters.beta"
