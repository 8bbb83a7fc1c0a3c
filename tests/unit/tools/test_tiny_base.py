"""The bundled base keeps the promises that the rest of the project leans on. Loads no torch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from examples.make_data import ACME_QUEUES, GLOBEX_ACTIONS
from tools.tiny_corpus import BOS, CHAT_TEMPLATE, END, EOT, PAD, SPECIAL_TOKENS, documents

BASE = Path(__file__).parents[3] / "service" / "base" / "bundled" / "lorehouse-tiny"
SIZE_LIMIT = 12 * 2**20
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is order 48213?"},
    {"role": "assistant", "content": "lookup(48213)"},
    {"role": "tool", "content": '{"status": "paid"}'},
]


def read_json(name: str) -> dict[str, Any]:
    """One of the base's JSON files."""
    content: dict[str, Any] = json.loads((BASE / name).read_text())
    return content


def read_tensor_header() -> dict[str, dict[str, Any]]:
    """What a safetensors file says about its tensors in its first bytes."""
    with (BASE / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    tensors: dict[str, dict[str, Any]] = header
    return tensors


def render(turns: list[dict[str, str]], *, generation_prompt: bool) -> str:
    """The committed template, as any sandboxed renderer reads it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((BASE / "chat_template.jinja").read_text())
    return template.render(
        messages=turns, bos_token=BOS, eos_token=END, add_generation_prompt=generation_prompt
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BASE / "tokenizer.json"))


def test_folder_size() -> None:
    assert sum(file.stat().st_size for file in BASE.rglob("*") if file.is_file()) <= SIZE_LIMIT


def test_every_dimension_is_a_multiple_of_64() -> None:
    config = read_json("config.json")
    sizes = [config[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "head_dim")]
    sizes.append(config["num_key_value_heads"] * config["head_dim"])
    assert [size % 64 for size in sizes] == [0] * len(sizes)


def test_parameters_are_few_and_bf16() -> None:
    tensors = read_tensor_header().values()
    assert {tensor["dtype"] for tensor in tensors} == {"BF16"}
    assert 3_000_000 <= sum(math.prod(tensor["shape"]) for tensor in tensors) <= 5_500_000


def test_vocabulary_is_as_large_as_the_embedding(tokenizer: Tokenizer) -> None:
    rows, _ = read_tensor_header()["model.embed_tokens.weight"]["shape"]
    assert tokenizer.get_vocab_size() == read_json("config.json")["vocab_size"] == rows


def test_special_tokens_are_single_ids(tokenizer: Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        assert tokenizer.encode(token, add_special_tokens=False).tokens == [token]


def test_the_tokenizer_adds_nothing_and_loses_nothing(tokenizer: Tokenizer) -> None:
    text = "Größe 48213,\n\tKX-7 naïve 你好 🙂 "
    encoded = tokenizer.encode(text)
    assert encoded.ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_ids_of_the_configs_agree(tokenizer: Tokenizer) -> None:
    config, generation = read_json("config.json"), read_json("generation_config.json")
    settings = read_json("tokenizer_config.json")
    assert generation["eos_token_id"] == [tokenizer.token_to_id(END), tokenizer.token_to_id(EOT)]
    for key, token in (("bos", BOS), ("eos", END), ("pad", PAD)):
        assert config[f"{key}_token_id"] == tokenizer.token_to_id(token)
        assert settings[f"{key}_token"] == token


def test_the_template_is_the_one_that_the_base_was_trained_with() -> None:
    assert (BASE / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_template_renders_every_role_with_one_bos() -> None:
    assert render(TURNS, generation_prompt=True) == (
        "<|begin_of_text|><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhere is order 48213?<|im_end|>\n"
        "<|im_start|>assistant\nlookup(48213)<|im_end|>\n"
        '<|im_start|>tool\n{"status": "paid"}<|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_a_prompt_is_a_prefix_of_the_whole_conversation() -> None:
    whole = render(TURNS[:3], generation_prompt=False)
    assert whole.startswith(render(TURNS[:2], generation_prompt=True))


def test_the_corpus_is_the_same_each_time() -> None:
    assert documents(7, 50) == documents(7, 50)


def test_the_tenants_codes_are_kept_out_of_the_corpus() -> None:
    codes = [*ACME_QUEUES.values(), *GLOBEX_ACTIONS.values()]
    text = "\n".join(documents(1, 2000))
    assert [code for code in codes if code in text] == []
