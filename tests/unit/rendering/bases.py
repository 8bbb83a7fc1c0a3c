"""Small bases made on the spot: a tokenizer, a template, and no weights."""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from service.base.description import BaseDescription

CORPUS = [
    "You are a helpful assistant.\n\nWhat is the capital of France?\nThe capital is Paris.",
    "### Instruction:\nSay hello\n\n### Response:\nhello  there\n\n user system assistant tool",
    "def f(x):\n\n\n    return {'a': 1}\n\t<think>\n\n</think>\n\n 1234 naïve café 日本 🙂",
]


# Llama 3's and Qwen 2.5's: unlike GPT-2's, it never splits a run of line breaks.
MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(special: list[str], bos: str | None = None, *, modern: bool = False) -> Tokenizer:
    """Train a byte-level BPE; with `bos` its post-processor puts one at the start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if modern:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(MODERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    _train(tokenizer, special, pre_tokenizers.ByteLevel.alphabet())
    return _with_bos(tokenizer, bos)


def metaspace(special: list[str], bos: str | None = None) -> Tokenizer:
    """Train a BPE in sentencepiece's manner, with byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    _train(tokenizer, [*special, *(f"<0x{byte:02X}>" for byte in range(256))], [])
    return _with_bos(_with_plain_bytes(tokenizer, special), bos)


def base_of(
    folder: Path,
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    config: dict[str, Any] | None = None,
    **tokenizer_config: Any,
) -> BaseDescription:
    """Write the files that a renderer reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer_config}
    if template is not None:
        names["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "config.json").write_text(json.dumps(config or {}))
    return BaseDescription("small", folder)


def _train(tokenizer: Tokenizer, special: list[str], alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)


def _with_plain_bytes(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    # The trainer knows byte tokens only as special ones; in real bases they are ordinary.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(content))


def _with_bos(tokenizer: Tokenizer, bos: str | None) -> Tokenizer:
    if bos is not None:
        tokenizer.add_special_tokens([AddedToken(bos, special=True)])
        adder = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), adder])
    return tokenizer
