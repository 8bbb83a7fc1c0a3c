"""What was asked for becomes what is trained, or is refused by the field's name."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.parents import Parent
from service.errors import BadRequest, UnsupportedField
from service.http.errors import describe_fault
from service.jobs.create_schemas import CreateJob
from service.jobs.resolve import (
    EPOCHS,
    FEW_EXAMPLES,
    Facts,
    epochs,
    resolve,
    split,
    wanted_parent,
)
from service.jobs.schemas import JobMethod
from service.training.spec import BaseAdapter, EarlyStopping, LoraSpec, TrainingSpec, held_out

MODULES = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"})
FACTS = Facts(
    "tiny", MODULES, context_length=4096, quantization="nf4", rows=400, validation_file=False
)


def ask(**fields: Any) -> CreateJob:
    body = {"model": "tiny", "training_file": "file-1"} | fields
    return msgspec.json.decode(msgspec.json.encode(body), type=CreateJob)


def supervised(**fields: Any) -> CreateJob:
    return ask(method={"type": "supervised", "supervised": fields})


def resolved(body: CreateJob, seed: int = 7, **facts: Any) -> tuple[TrainingSpec, JobMethod]:
    return resolve(body, msgspec.structs.replace(FACTS, **facts), seed)


def test_defaults_are_the_guides() -> None:
    spec, method = resolved(ask())
    assert spec == TrainingSpec(seed=7)
    assert method.type == "supervised"
    assert method.chosen().hyperparameters.batch_size == 8
    assert method.chosen().quantization == "nf4"


def test_what_is_shown_is_what_is_trained() -> None:
    spec, method = resolved(
        supervised(
            hyperparameters={"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2},
            lora={
                "rank": 8,
                "alpha": 8,
                "dropout": 0,
                "target_modules": ["up_proj"],
                "rslora": True,
            },
            quantization="none",
            learning_rate=1e-3,
            max_length=64,
            warmup_ratio=0,
            gradient_clip=0.5,
            validation_split=0.25,
        ),
        quantization="none",
    )
    shown = method.chosen()
    assert spec.learning_rate == pytest.approx(2e-3)
    assert (shown.learning_rate, shown.hyperparameters.learning_rate_multiplier) == (1e-3, 2.0)
    assert spec.lora.target_modules == ("up_proj",)
    assert (spec.n_epochs, spec.batch_size, spec.max_length) == (2, 4, 64)
    assert (spec.quantization, spec.gradient_clip, spec.validation_split) == ("none", 0.5, 0.25)
    assert msgspec.json.encode(spec.lora) == msgspec.json.encode(shown.lora)


def test_deprecated_hyperparameters_count_when_there_is_no_method() -> None:
    spec, _ = resolved(ask(hyperparameters={"n_epochs": 4, "batch_size": "auto"}))
    assert (spec.n_epochs, spec.batch_size) == (4, 8)


def test_hyperparameters_in_two_places_are_refused() -> None:
    body = ask(hyperparameters={"n_epochs": 4}, method={"type": "supervised"})
    with pytest.raises(BadRequest) as fault:
        resolved(body)
    assert fault.value.param == "hyperparameters"


@pytest.mark.parametrize(
    ("asked", "server", "trained"),
    [
        ("auto", "auto", "auto"),
        ("nf4", "auto", "nf4"),
        ("auto", "none", "none"),
        ("auto", "nf4", "nf4"),
        ("none", "none", "none"),
        ("nf4", "nf4", "nf4"),
    ],
)
def test_quantization_is_the_jobs_else_the_servers(asked: str, server: str, trained: str) -> None:
    spec, _ = resolved(supervised(quantization=asked), quantization=server)
    assert spec.quantization == trained


@pytest.mark.parametrize(("asked", "server"), [("none", "nf4"), ("nf4", "none")])
def test_a_base_that_is_held_otherwise_is_not_loaded_again(asked: str, server: str) -> None:
    with pytest.raises(BadRequest, match=f"'{server}'") as refused:
        resolved(supervised(quantization=asked), quantization=server)
    assert refused.value.param == "method.supervised.quantization"


@pytest.mark.parametrize(
    ("rows", "chosen"), [(1, 10), (40, 10), (50, 8), (80, 5), (99, 5), (100, 3)]
)
def test_the_fewer_the_examples_the_more_epochs(rows: int, chosen: int) -> None:
    spec, _ = resolved(ask(), rows=rows)
    assert spec.n_epochs == chosen


@given(st.integers(1, 10**7))
def test_choices_stay_within_the_promised_bounds(rows: int) -> None:
    share, passes = split(rows), epochs(rows)
    kept = held_out(rows, share)
    if rows < FEW_EXAMPLES:
        assert 5 <= passes <= 10
        assert share == 0.1
    else:
        assert passes == EPOCHS
        assert kept <= 64
        assert 0 < share <= 0.05
    assert kept == 0 if rows == 1 else 1 <= kept < rows


@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_holding_out_leaves_something_to_train_on(rows: int, share: float) -> None:
    kept = held_out(rows, share)
    assert 0 <= kept <= max(0, rows - 1)
    assert (kept > 0) == (share > 0 and rows > 1)


def test_a_validation_file_replaces_the_split() -> None:
    spec, _ = resolved(ask(validation_file="file-2"), validation_file=True)
    assert spec.validation_split == 0
    with pytest.raises(BadRequest) as fault:
        resolved(supervised(validation_split=0.1), validation_file=True)
    assert fault.value.param == "method.supervised.validation_split"


def test_no_split_can_be_asked_for() -> None:
    spec, _ = resolved(supervised(validation_split=0))
    assert spec.validation_split == 0


def test_max_length_is_the_context_at_most() -> None:
    assert resolved(ask(), context_length=512)[0].max_length == 512
    assert resolved(ask())[0].max_length == 2048
    with pytest.raises(BadRequest, match="512") as fault:
        resolved(supervised(max_length=513), context_length=512)
    assert fault.value.param == "method.supervised.max_length"


def test_early_stopping_is_trained_as_asked_for() -> None:
    spec, method = resolved(supervised(early_stopping={"patience": 3}, eval_steps=20))
    assert spec.early_stopping == EarlyStopping(patience=3, min_delta=0.0)
    assert method.supervised.early_stopping is not None
    assert (method.supervised.early_stopping.patience, method.supervised.eval_steps) == (3, 20)
    assert spec.eval_steps == 20
    spec, method = resolved(supervised(early_stopping=None))
    assert spec.early_stopping is method.supervised.early_stopping is None


@pytest.mark.parametrize(
    ("field", "value"), [("early_stopping", {"patience": 1}), ("eval_steps", 10)]
)
@pytest.mark.parametrize(
    ("split", "rows", "file", "fine"),
    [
        (None, 400, False, True),
        (0, 400, False, False),
        (0, 400, True, True),
        (None, 1, False, False),
    ],
)
def test_what_measures_needs_something_to_measure_on(
    field: str, value: object, split: float | None, rows: int, file: bool, fine: bool
) -> None:
    body = supervised(**{field: value, "validation_split": split})
    if fine:
        resolved(body, rows=rows, validation_file=file)
        return
    with pytest.raises(BadRequest, match="validation_file") as fault:
        resolved(body, rows=rows, validation_file=file)
    assert fault.value.param == f"method.supervised.{field}"


PARENT = Parent(
    "ft:tiny:acme:x:12345678",
    BaseAdapter(adapter="x", digest="12345678" * 8),
    LoraSpec(rank=8, alpha=24.0, target_modules=("up_proj", "q_proj"), rslora=True),
    "method.supervised.base_adapter",
)


def test_whoever_goes_on_from_an_adapter_has_its_shape() -> None:
    spec, method = resolved(supervised(lora={"dropout": 0.5}), parent=PARENT)
    assert spec.lora == msgspec.structs.replace(PARENT.lora, dropout=0.5)
    assert spec.base_adapter == PARENT.base_adapter
    assert method.supervised.base_adapter == PARENT.model
    assert msgspec.json.encode(spec.lora) == msgspec.json.encode(method.supervised.lora)
    same = {"rank": 8, "alpha": 24, "target_modules": ["q_proj", "up_proj"], "rslora": True}
    assert resolved(supervised(lora=same | {"dropout": 0.5}), parent=PARENT)[0] == spec


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 16), ("alpha", 32.0), ("rslora", False), ("target_modules", ["q_proj"])],
)
def test_another_shape_than_the_base_adapters_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match="base adapter") as fault:
        resolved(supervised(lora={name: value}), parent=PARENT)
    assert fault.value.param == f"method.supervised.lora.{name}"


def test_two_fields_may_say_what_to_go_on_from_but_not_two_things() -> None:
    name = PARENT.model
    assert wanted_parent(ask()) is None
    assert wanted_parent(ask(model=name)) == (name, "model")
    assert wanted_parent(supervised(base_adapter="x@prod")) == (
        "x@prod",
        "method.supervised.base_adapter",
    )
    both = msgspec.structs.replace(supervised(base_adapter=name), model=name)
    assert wanted_parent(both) == (name, "model")
    with pytest.raises(BadRequest) as fault:
        wanted_parent(msgspec.structs.replace(supervised(base_adapter="x"), model=name))
    assert fault.value.param == "method.supervised.base_adapter"


def test_only_supervised_jobs_go_on_from_a_fine_tuned_model() -> None:
    with pytest.raises(UnsupportedField) as fault:
        wanted_parent(ask(model=PARENT.model, method={"type": "dpo"}))
    assert fault.value.param == "model"


def test_unknown_target_module_is_named() -> None:
    with pytest.raises(BadRequest, match="'lm_head'") as fault:
        resolved(supervised(lora={"target_modules": ["q_proj", "lm_head"]}))
    assert fault.value.param == "method.supervised.lora.target_modules"


def test_targets_are_taken_once_and_default_to_what_the_base_has() -> None:
    spec, _ = resolved(supervised(lora={"target_modules": ["q_proj", "q_proj"]}))
    assert spec.lora.target_modules == ("q_proj",)
    spec, _ = resolved(ask(), linear_modules=frozenset({"c_attn", "c_proj"}))
    assert spec.lora.target_modules == ("c_attn", "c_proj")


@pytest.mark.parametrize("suffix", ["My Suffix_1", "-x", "a:b", "a@b", "ünï", "a\n", "../x"])
def test_a_suffix_that_is_no_name_is_refused_with_the_pattern(suffix: str) -> None:
    with pytest.raises(BadRequest, match=r"\[a-z0-9\]") as fault:
        resolved(ask(suffix=suffix))
    assert fault.value.param == "suffix"


@pytest.mark.parametrize("suffix", ["import", "tiny"])
def test_a_suffix_that_means_something_else_is_refused(suffix: str) -> None:
    with pytest.raises(BadRequest, match="reserved") as fault:
        resolved(ask(suffix=suffix))
    assert fault.value.param == "suffix"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
    ],
)
def test_known_fields_without_meaning_here_are_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedField) as fault:
        resolved(ask(**fields))
    assert fault.value.param == param


@pytest.mark.parametrize("alias", ["production", "v1.2", "deadbee", "import"])
def test_a_result_can_be_published_under_an_alias(alias: str) -> None:
    assert resolved(ask(publish={"alias": alias}))[0] == TrainingSpec(seed=7)


@pytest.mark.parametrize("alias", ["Production", "-x", "a b", "deadbeef", "a@b"])
def test_a_result_cannot_be_published_under_what_is_no_alias(alias: str) -> None:
    with pytest.raises(BadRequest) as fault:
        resolved(ask(publish={"alias": alias}))
    assert fault.value.param == "publish.alias"


@pytest.mark.parametrize("empty", [{"integrations": []}, {"integrations": None}, {"method": None}])
def test_asking_for_nothing_is_fine(empty: dict[str, Any]) -> None:
    assert resolved(ask(**empty))[0] == TrainingSpec(seed=7)


SUPERVISED_FAULTS = [
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
    (
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        "hyperparameters.learning_rate_multiplier",
    ),
    ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"lora": {"rank": 10_000}}, "lora.rank"),
    ({"lora": {"rank": 1.5}}, "lora.rank"),
    ({"lora": {"alpha": 0}}, "lora.alpha"),
    ({"lora": {"dropout": 1}}, "lora.dropout"),
    ({"lora": {"dropout": -0.1}}, "lora.dropout"),
    ({"lora": {"target_modules": []}}, "lora.target_modules"),
    ({"lora": {"target_modules": "all-linear"}}, "lora.target_modules"),
    ({"lora": {"r": 8}}, "lora.r"),
    ({"quantization": "int8"}, "quantization"),
    ({"learning_rate": 0}, "learning_rate"),
    ({"max_length": 7}, "max_length"),
    ({"warmup_ratio": 1.1}, "warmup_ratio"),
    ({"gradient_clip": 0}, "gradient_clip"),
    ({"validation_split": 0.6}, "validation_split"),
    ({"packing": True}, "packing"),
    ({"eval_steps": 0}, "eval_steps"),
    ({"early_stopping": True}, "early_stopping"),
    ({"early_stopping": {}}, "early_stopping.patience"),
    ({"early_stopping": {"patience": 0}}, "early_stopping.patience"),
    ({"early_stopping": {"patience": 1.5}}, "early_stopping.patience"),
    ({"early_stopping": {"patience": 2, "min_delta": -0.1}}, "early_stopping.min_delta"),
    ({"early_stopping": {"patience": 2, "threshold": 0}}, "early_stopping.threshold"),
    ({"base_adapter": ""}, "base_adapter"),
    ({"base_adapter": 7}, "base_adapter"),
]


@pytest.mark.parametrize(("fields", "param"), SUPERVISED_FAULTS)
def test_values_out_of_bounds_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(msgspec.ValidationError) as fault:
        supervised(**fields)
    assert describe_fault(str(fault.value)).param == f"method.supervised.{param}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata[...]"),
        ({"metadata": {"k": 1}}, "metadata[...]"),
        ({"method": {}}, "method.type"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"epochs": 3}, "epochs"),
        ({"model": None}, "model"),
    ],
)
def test_faults_outside_the_method_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(msgspec.ValidationError) as fault:
        ask(**fields)
    assert describe_fault(str(fault.value)).param == param


def test_metadata_keys_are_short() -> None:
    with pytest.raises(msgspec.ValidationError, match="64"):
        ask(metadata={"k" * 65: "v"})
    assert ask(metadata={str(i) * 32: "v" for i in range(16)}).metadata
