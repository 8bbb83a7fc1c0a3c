"""adapter_config.json: bounds, meaning, canonical form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store import InvalidAdapter
from adapters_store.config import MAX_BYTES, canonical, check, parse
from tests.builders import CONFIG

DOCUMENT = CONFIG | {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}

# What PEFT 0.21 writes beside the fields above.
STOCK = {
    "alora_invocation_tokens": None,
    "auto_mapping": None,
    "ensure_weight_tying": False,
    "exclude_modules": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "revision": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_qalora": False,
}


def with_(**changes: Any) -> dict[str, Any]:
    return DOCUMENT | changes


def test_what_stock_peft_writes_is_accepted() -> None:
    config = check(DOCUMENT | STOCK)

    assert config.rank == 4
    assert config.target_modules == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'\xef\xbb\xbf{"r": 1}', "not JSON"),
        (b'{"r": 1, "r": 2}', "appears twice"),
        (b'{"r": NaN}', "not a JSON number"),
        (b'{"r": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "nested deeper"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_file_out_of_bounds_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        parse(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "lora"),
        ("peft_type", ["LORA"]),
        ("task_type", "SEQ_CLS"),
        ("r", None),
        ("r", 0),
        ("r", -1),
        ("r", 4.0),
        ("r", True),
        ("r", "4"),
        ("r", 10**400),
        ("lora_alpha", 0),
        ("lora_alpha", "16"),
        ("lora_alpha", float("inf")),
        ("lora_dropout", 1),
        ("lora_dropout", -0.1),
        ("lora_dropout", "0"),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", "all-linear"),
        ("target_modules", ["(a+)+$"]),
        ("target_modules", ["q_proj", 7]),
        ("target_modules", [".q_proj"]),
        ("target_modules", ["q_proj"] * 2000),
        ("rank_pattern", None),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {".*": 8}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"q_proj": "8"}),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("use_rslora", "yes"),
        ("layers_to_transform", 0),
        ("layers_to_transform", [0]),
        ("exclude_modules", ["q_proj"]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["w"]),
        ("megatron_config", {"a": 1}),
        ("init_lora_weights", "olora"),
        ("something_of_tomorrow", {"on": True}),
    ],
)
def test_a_field_that_cannot_be_served_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidAdapter, match=f"'{field}'"):
        check(with_(**{field: value}))


def test_a_hostile_field_name_makes_a_short_printable_message() -> None:
    with pytest.raises(InvalidAdapter) as fault:
        check(with_(**{"\ud800\n" + "x" * 10_000: 1}))

    assert len(str(fault.value)) < 200
    assert str(fault.value).isprintable()


def test_a_modules_rank_is_what_the_patterns_say_as_peft_reads_them() -> None:
    config = check(with_(rank_pattern={"q_proj": 8, "layers.1.mlp.up_proj": 2}))

    assert config.rank_of("model.layers.0.self_attn.q_proj") == 8
    assert config.rank_of("model.layers.1.mlp.up_proj") == 2
    assert config.rank_of("model.layers.11.mlp.up_proj") == 4
    assert config.rank_of("model.layers.0.self_attn.eq_proj") == 4


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_contradict_each_other_are_refused(field: str) -> None:
    config = check(with_(**{field: {"q_proj": 8, "self_attn.q_proj": 16}}))

    with pytest.raises(InvalidAdapter, match=f"{field} gives .*q_proj more than one value"):
        config.rank_of("model.layers.0.self_attn.q_proj")


def test_the_canonical_form_keeps_no_path_and_names_no_module_to_import() -> None:
    theirs = with_(
        base_model_name_or_path="/home/someone/base",
        revision="main",
        auto_mapping={"parent_library": "os"},
    )

    kept = json.loads(canonical(theirs, "lorehouse-tiny"))

    assert kept["base_model_name_or_path"] == "lorehouse-tiny"
    assert kept["revision"] is None
    assert kept["auto_mapping"] is None


@given(st.permutations(list(DOCUMENT.items())), st.permutations(["q_proj", "v_proj", "o_proj"]))
def test_no_order_shows_in_the_canonical_form(
    items: list[tuple[str, Any]], targets: list[str]
) -> None:
    shuffled = dict(items) | {"target_modules": targets}
    ordered = DOCUMENT | {"target_modules": sorted(targets)}

    once = canonical(shuffled, "base")

    assert once == canonical(ordered, "base")
    assert canonical(parse(once), "base") == once
    assert check(parse(once)) == check(shuffled)
