import json
from pathlib import Path
from typing import Any

import pytest

from service.base.description import BaseDescription, BaseModelError, describe, public_name
from service.settings import BUNDLED_BASE


def described(folder: Path, **files: Any) -> BaseDescription:
    for name, content in {"config": {}, "tokenizer": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return describe(str(folder), "small")


def test_special_tokens_are_read_as_text_or_as_objects(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}
    assert described(tmp_path, tokenizer_config=config).special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
    }


def test_an_older_bases_special_tokens_lie_beside(tmp_path: Path) -> None:
    base = described(tmp_path, special_tokens_map={"eos_token": "</s>"})
    assert base.special_tokens == {"eos_token": "</s>"}


def test_a_template_beside_the_config_comes_first(tmp_path: Path) -> None:
    base = described(tmp_path, tokenizer_config={"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("new")
    assert base.chat_template == "new"


def test_a_base_without_a_template_has_none(tmp_path: Path) -> None:
    assert described(tmp_path).chat_template is None


def test_generation_ends_at_what_the_generation_config_says(tmp_path: Path) -> None:
    base = described(
        tmp_path, config={"eos_token_id": 1}, generation_config={"eos_token_id": [2, 3]}
    )
    assert base.eos_token_ids == (2, 3)


def test_the_commit_is_that_of_the_hubs_cache(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = tmp_path / "models--org--small" / "snapshots" / commit
    folder.mkdir(parents=True)
    assert described(folder).commit == commit
    assert described(tmp_path).commit is None


def test_a_folder_without_a_tokenizer_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"tokenizer\.json"):
        describe(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "name"),
    [("org/Qwen2.5-0.5B_x/", "qwen2.5-0.5b-x"), ("./bases/tiny", "tiny"), ("A b", "a-b")],
)
def test_the_public_name_is_the_last_segment_made_plain(model: str, name: str) -> None:
    assert public_name(model) == name


def test_generation_ends_at_the_configs_token_when_the_generation_config_says_null(
    tmp_path: Path,
) -> None:
    base = described(tmp_path, config={"eos_token_id": 1}, generation_config={"eos_token_id": None})
    assert base.eos_token_ids == (1,)


def test_an_older_name_of_the_context_counts(tmp_path: Path) -> None:
    assert described(tmp_path, config={"n_positions": 64}).context_length == 64


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "model_type"),
        ({"model_type": "llama"}, "max_position_embeddings"),
        ({"model_type": "llama", "max_position_embeddings": 64}, "safetensors"),
    ],
)
def test_what_a_base_lacks_is_named(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(BaseModelError, match=said):
        described(tmp_path, config=config).check()


def test_the_bundled_base_lacks_nothing() -> None:
    describe(str(BUNDLED_BASE)).check()


def test_a_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    base = described(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"config\.json is not a JSON object"):
        base.check()


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(BaseModelError, match="there is no folder /nonexistent"):
        describe("/nonexistent")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x04" + b"\0" * 7 + b"nope", b"version"])
def test_weights_that_are_none_are_named(tmp_path: Path, content: bytes) -> None:
    base = described(tmp_path, config={"model_type": "llama", "max_position_embeddings": 64})
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"model\.safetensors"):
        base.check()
