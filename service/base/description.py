"""What the base model is, read from its folder without torch: name, limits, tokens, digests."""

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

NAME = re.compile(r"[^a-z0-9.-]")
COMMIT = re.compile(r"[0-9a-f]{40}")
CONTEXT_NAMES = ("max_position_embeddings", "n_positions")
SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class BaseModelError(Exception):
    """The folder or id is not a causal language model that can be used here."""


class BaseDescription(msgspec.Struct, frozen=True, dict=True):
    """The base's public id and its folder."""

    name: str
    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return _json(self.path / "config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json, or nothing."""
        return _json(self.path / "generation_config.json", missing={})

    @property
    def commit(self) -> str | None:
        """The hub's commit that the files are of, where the folder is the hub cache's."""
        cached = self.path.parent.name == "snapshots" and COMMIT.fullmatch(self.path.name)
        return self.path.name if cached else None

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return next(int(self.config[name]) for name in CONTEXT_NAMES if self.config.get(name))

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation."""
        given = self.generation_config.get("eos_token_id")
        if given is None:
            given = self.config.get("eos_token_id")
        if given is None:
            return ()
        return tuple(given) if isinstance(given, list) else (int(given),)

    def check(self) -> None:
        """Raise BaseModelError when something is missing that every job or answer would need."""
        if not self.config.get("model_type"):
            raise BaseModelError(f"{self.path / 'config.json'} names no model_type")
        if not any(self.config.get(name) for name in CONTEXT_NAMES):
            missing = " or ".join(CONTEXT_NAMES)
            raise BaseModelError(f"{self.path / 'config.json'} has no {missing}")
        if not any(self.path.glob("*.safetensors")):
            raise BaseModelError(f"{self.path} holds no *.safetensors")
        if not self.linear_modules:
            raise BaseModelError(f"{self.path} holds no linear layers that LoRA could target")

    @cached_property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) features of the linear layers that LoRA may target, by path in the model."""
        return _linear_shapes(self.path)

    @cached_property
    def linear_modules(self) -> frozenset[str]:
        """Last names of the linear layers that LoRA may target."""
        return frozenset(name.rsplit(".", 1)[-1] for name in self.linear_shapes)

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 of tokenizer.json."""
        return _sha256(self.path / "tokenizer.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json, or nothing."""
        return _json(self.path / "tokenizer_config.json", missing={})

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The text of `bos_token`, `eos_token` and the like, where the base names them."""
        older = _json(self.path / "special_tokens_map.json", missing={})
        given = {**older, **self.tokenizer_config}
        texts = {name: _text(given.get(name)) for name in SPECIAL_TOKENS}
        return {name: text for name, text in texts.items() if text is not None}

    @cached_property
    def chat_template(self) -> str | None:
        """The base's own Jinja template, if it has one; of several, the default."""
        beside = self.path / "chat_template.jinja"
        if beside.exists():
            return beside.read_text(encoding="utf-8")
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default")
        return template if isinstance(template, str) else None

    @cached_property
    def chat_template_digest(self) -> str:
        """sha256 of the chat template."""
        return hashlib.sha256((self.chat_template or "").encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and digests of config and weights: which base this is."""
        whole = hashlib.sha256()
        for file in sorted([self.path / "config.json", *self.path.glob("*.safetensors")]):
            whole.update(f"{file.name}:{_sha256(file)}\n".encode())
        return whole.hexdigest()


def describe(model: str, name: str = "") -> BaseDescription:
    """Find a base by folder or by Hugging Face id (fetched to the local hub cache if need be).

    `name` is its public id; by default the last path segment of `model`, lowered, with anything
    outside `[a-z0-9.-]` turned into `-`. Raises BaseModelError.
    """
    path = Path(model) if Path(model).is_dir() else _fetch(model)
    if not (path / "config.json").is_file() or not (path / "tokenizer.json").is_file():
        raise BaseModelError(f"{model} needs a config.json and a tokenizer.json")
    return BaseDescription(name or public_name(model), path)


def public_name(model: str) -> str:
    """Derive the base's public id from a path or hub id."""
    return NAME.sub("-", model.rstrip("/").rsplit("/", 1)[-1].lower())[:64]


def _fetch(model: str) -> Path:
    if model.startswith((".", "/", "~")):
        raise BaseModelError(f"there is no folder {model}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as fault:
        raise BaseModelError(f"no base model at {model!r}: {fault}") from None


def _header(file: Path) -> dict[str, Any]:
    """Read what tensors a safetensors file holds."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            raise BaseModelError(f"{file} is cut short, or no safetensors file")
        try:
            return msgspec.json.decode(stream.read(length), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BaseModelError(f"{file} is no safetensors file") from None


def _linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    shapes: dict[str, tuple[int, int]] = {}
    for file in path.glob("*.safetensors"):
        for key, tensor in _header(file).items():
            # Two-dimensional weights inside the layers are the projections; the embedding and the
            # vocabulary head lie outside, and LoRA on them would not be servable.
            if key != "__metadata__" and ".layers." in key and len(tensor["shape"]) == 2:
                features_out, features_in = tensor["shape"]
                shapes[key.removesuffix(".weight")] = (features_in, features_out)
    return shapes


def _json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not path.exists():
        return missing
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise BaseModelError(f"{path} is not a JSON object: {fault}") from None


def _text(token: object) -> str | None:
    """Read a token that is written as text or as an object with its `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
