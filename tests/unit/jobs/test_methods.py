"""What `dpo` and `reinforcement` ask for becomes what is trained, or is refused by the field."""

from typing import Any

import msgspec
import pytest

from service.errors import BadRequest, UnsupportedField
from service.jobs.create_schemas import CreateJob
from service.jobs.resolve import Facts, resolve
from service.jobs.schemas import JobMethod
from service.training.graders.shapes import StringCheckGrader
from service.training.spec import DpoSpec, ReinforcementSpec, TrainingSpec

MODULES = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
FACTS = Facts(
    "tiny", MODULES, context_length=4096, quantization="nf4", rows=400, validation_file=False
)
GRADER: dict[str, Any] = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
SHAPES = {"dpo": "preference", "reinforcement": "reinforcement"}


def ask(kind: str, fields: dict[str, Any] | None = None, **facts: Any) -> Any:
    method = {"type": kind} | ({} if fields is None else {kind: fields})
    body = {"model": "tiny", "training_file": "file-1", "method": method}
    decoded = msgspec.json.decode(msgspec.json.encode(body), type=CreateJob)
    known = {"row_format": SHAPES.get(kind, "messages")} | facts
    return resolve(decoded, msgspec.structs.replace(FACTS, **known), 7)


def dpo(**fields: Any) -> tuple[TrainingSpec, JobMethod]:
    return ask("dpo", fields)  # type: ignore[no-any-return]


def reinforcement(**fields: Any) -> tuple[TrainingSpec, JobMethod]:
    return ask("reinforcement", {"grader": GRADER} | fields)  # type: ignore[no-any-return]


def test_a_preference_job_has_defaults_of_its_own() -> None:
    spec, shown = ask("dpo")
    assert spec == TrainingSpec(method="dpo", dpo=DpoSpec(beta=0.1), learning_rate=5e-5, seed=7)
    assert (shown.type, shown.supervised, shown.reinforcement) == ("dpo", None, None)
    assert shown.dpo is not None
    knobs = msgspec.to_builtins(shown.dpo.hyperparameters)
    expected = {"batch_size": 8, "learning_rate_multiplier": 1.0, "n_epochs": 3, "beta": 0.1}
    assert knobs == expected


def test_a_preference_job_takes_the_lora_fields_too() -> None:
    spec, shown = dpo(
        hyperparameters={"beta": 0.5, "n_epochs": 2, "learning_rate_multiplier": 2},
        lora={"rank": 4, "target_modules": ["v_proj"]},
        learning_rate=1e-4,
        max_length=64,
    )
    assert spec.dpo == DpoSpec(beta=0.5)
    assert (spec.lora.rank, spec.lora.target_modules) == (4, ("v_proj",))
    assert spec.learning_rate == pytest.approx(2e-4)
    assert (spec.n_epochs, spec.max_length) == (2, 64)
    assert shown.chosen().lora.rank == 4


def test_a_reinforcement_job_is_resolved_and_shown_with_its_grader() -> None:
    spec, shown = reinforcement()
    grader = msgspec.convert(GRADER, StringCheckGrader)
    # 380 rows are trained on, 8 at a time.
    assert spec.reinforcement == ReinforcementSpec(grader=grader, eval_interval=48)
    assert (spec.method, spec.dpo) == ("reinforcement", None)
    assert shown.reinforcement is not None
    assert msgspec.to_builtins(shown.reinforcement.grader) == GRADER
    assert msgspec.to_builtins(shown.reinforcement.hyperparameters) == {
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "n_epochs": 3,
        "compute_multiplier": 1.0,
        "eval_interval": 48,
        "eval_samples": 1,
        "reasoning_effort": "default",
    }


@pytest.mark.parametrize(("multiplier", "completions"), [(0.25, 2), (1.5, 12), (8, 64)])
def test_compute_is_spent_on_more_answers(multiplier: float, completions: int) -> None:
    spec, _ = reinforcement(
        hyperparameters={"compute_multiplier": multiplier, "eval_interval": 5, "eval_samples": 3},
        max_completion_tokens=12,
    )
    chosen = spec.reinforcement
    assert chosen is not None
    assert (chosen.completions, chosen.eval_interval, chosen.eval_samples) == (completions, 5, 3)
    assert chosen.max_completion_tokens == 12


def test_a_spec_is_kept_and_read_again() -> None:
    for spec, shown in (dpo(), reinforcement()):
        assert msgspec.convert(msgspec.to_builtins(spec), TrainingSpec) == spec
        assert msgspec.convert(msgspec.to_builtins(shown), JobMethod) == shown


@pytest.mark.parametrize("metric", ["cosine", "meteor"])
def test_a_metric_that_is_not_computed_is_refused_by_name(metric: str) -> None:
    grader = {"type": "text_similarity", "name": "x", "input": "a", "reference": "b"}
    with pytest.raises(BadRequest, match=metric) as fault:
        reinforcement(grader=grader | {"evaluation_metric": metric})
    assert fault.value.param == "method.reinforcement.grader.evaluation_metric"


@pytest.mark.parametrize("kind", ["python", "score_model", "label_model"])
def test_a_grader_that_would_run_code_or_a_model_is_refused(kind: str) -> None:
    other = {"type": kind, "name": "x", "source": "def grade(): ...", "model": "gpt"}
    with pytest.raises(BadRequest, match="not supported") as fault:
        reinforcement(grader=other)
    assert fault.value.param == "method.reinforcement.grader.type"
    nested = {"type": "multi", "name": "m", "graders": {"a": other}, "calculate_output": "a"}
    with pytest.raises(BadRequest, match="not supported") as fault:
        reinforcement(grader=nested)
    assert fault.value.param == "method.reinforcement.grader.graders.a.type"


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (GRADER | {"input": "{{ sample.output_json }}"}, "input"),
        (GRADER | {"reference": "{{ item }}"}, "reference"),
        (GRADER | {"reference": "{{ item.a | upper }}"}, "reference"),
        (GRADER | {"reference": "{{ item.a"}, "reference"),
        (
            {"type": "multi", "name": "m", "graders": {"a": GRADER}, "calculate_output": "a + b"},
            "calculate_output",
        ),
        (
            {"type": "multi", "name": "m", "graders": {"min": GRADER}, "calculate_output": "1"},
            "graders",
        ),
    ],
)
def test_a_grader_that_means_nothing_is_refused_by_its_field(
    grader: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as fault:
        reinforcement(grader=grader)
    assert fault.value.param == f"method.reinforcement.grader.{param}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"hyperparameters": {"reasoning_effort": "high"}}, "hyperparameters.reasoning_effort"),
        ({"max_completion_tokens": 64, "max_length": 64}, "max_completion_tokens"),
        ({"max_length": 5000}, "max_length"),
        ({"lora": {"target_modules": ["x"]}}, "lora.target_modules"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as fault:
        reinforcement(**fields)
    assert fault.value.param == f"method.reinforcement.{param}"


STOPPING = {"early_stopping": {"patience": 2}}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("dpo", STOPPING),
        ("dpo", {"base_adapter": "mine"}),
        ("reinforcement", STOPPING),
        ("reinforcement", {"base_adapter": "mine"}),
        ("reinforcement", {"eval_steps": 3}),
        ("reinforcement", {"response_format": {"type": "json_object"}}),
    ],
)
def test_what_is_not_honoured_is_refused(kind: str, fields: dict[str, Any]) -> None:
    grader = {"grader": GRADER} if kind == "reinforcement" else {}
    with pytest.raises(UnsupportedField) as fault:
        ask(kind, grader | fields)
    assert fault.value.param == f"method.{kind}.{next(iter(fields))}"


def test_preferences_may_be_measured_more_often() -> None:
    spec, shown = dpo(eval_steps=3)
    assert (spec.eval_steps, shown.chosen().eval_steps) == (3, 3)
    with pytest.raises(BadRequest) as fault:
        dpo(eval_steps=3, validation_split=0)
    assert fault.value.param == "method.dpo.eval_steps"


def test_another_quantization_than_the_servers_is_refused_by_its_field() -> None:
    with pytest.raises(BadRequest) as fault:
        dpo(quantization="none")
    assert fault.value.param == "method.dpo.quantization"


def test_reinforcement_needs_a_grader() -> None:
    with pytest.raises(BadRequest) as fault:
        ask("reinforcement")
    assert fault.value.param == "method.reinforcement.grader"
    assert fault.value.code == "missing_required_parameter"


def test_the_fields_of_another_method_are_refused() -> None:
    body = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {"type": "supervised", "dpo": {}},
    }
    with pytest.raises(BadRequest) as fault:
        resolve(msgspec.convert(body, CreateJob), FACTS, 7)
    assert fault.value.param == "method.dpo"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("supervised", "preference"),
        ("supervised", "reinforcement"),
        ("dpo", "messages"),
        ("dpo", "reinforcement"),
        ("reinforcement", "preference"),
        ("reinforcement", "text"),
    ],
)
def test_a_method_takes_files_of_its_own_rows_only(kind: str, shape: str) -> None:
    fields = {"grader": GRADER} if kind == "reinforcement" else {}
    with pytest.raises(BadRequest, match=f"'{kind}'.*'{shape}'") as fault:
        ask(kind, fields, row_format=shape)
    assert fault.value.param == "training_file"
    known = {"validation_file": True, "validation_row_format": shape}
    with pytest.raises(BadRequest, match=f"'{kind}'.*'{shape}'") as fault:
        ask(kind, fields, **known)
    assert fault.value.param == "validation_file"
