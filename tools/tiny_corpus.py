"""The corpus of the bundled base: documents, their tokens, and rows of a fixed length."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.tiny_tasks import make_turns
from tools.tiny_text import plain_text

BOS, EOT, START, END, PAD = (
    "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>",
)  # fmt: skip
SPECIAL_TOKENS = [EOT, BOS, START, END, PAD]
CHAT_TEMPLATE = r"""{{- bos_token -}}
{%- if tools -%}
{{- '<|im_start|>system\n' -}}
{%- if messages[0]['role'] == 'system' -%}
{{- (messages[0]['content'] or '') + '\n\n' -}}
{%- endif -%}
{{- '# Tools\n\nYou may call these functions:\n<tools>' -}}
{%- for tool in tools -%}
{{- '\n' + tool | tojson -}}
{%- endfor -%}
{{- '\n</tools>\n\nA call is a JSON object within tags:\n<tool_call>\n' -}}
{{- '{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{%- if not (tools and loop.first and message['role'] == 'system') -%}
{{- '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') -}}
{%- for call in message['tool_calls'] or [] -%}
{{- '\n' if message['content'] or not loop.first -}}
{{- '<tool_call>\n{"name": ' + call['function']['name'] | tojson + ', "arguments": ' -}}
{{- call['function']['arguments'] | tojson + '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
# Digits and capitals of codes stand alone, so that an id is copied sign by sign.
SPLIT = (
    r" ?\p{Lu}(?!\p{Ll})| ?\p{L}\p{Ll}*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PROMPT_WEIGHT = 0.1
Array = npt.NDArray[np.uint16]


def render(turns: list[tuple[str, str]]) -> str:
    """What the chat template makes of the turns, much faster."""
    return BOS + "".join(f"{START}{role}\n{content}{END}\n" for role, content in turns)


def document(rng: Random) -> str:
    """A conversation, or plain text with or without BOS."""
    if rng.random() < 0.88:
        return render(make_turns(rng))
    return (BOS if rng.random() < 0.5 else "") + plain_text(rng) + EOT


def documents(seed: int, count: int) -> list[str]:
    """One shard of the corpus."""
    rng = Random(seed)
    return [document(rng) for _ in range(count)]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer; it adds no special token by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens' ids."""
    return {
        name: index for name in SPECIAL_TOKENS if (index := tokenizer.token_to_id(name)) is not None
    }


def trained_marks(ids: list[int], special: dict[str, int], assistant: int) -> list[int]:
    """1 where a token is an answer's (its end included) or plain text's, else 0."""
    if special[START] not in ids:
        return [1] * len(ids)
    marks = []
    inside, left = False, 0
    for position, token in enumerate(ids):
        if token == special[START]:
            inside, left = ids[position + 1] == assistant, 3
        marks.append(int(inside and left <= 0))
        left -= 1
        if token == special[END]:
            inside = False
    return marks


def pack(pieces: Iterator[tuple[list[int], list[int]]], length: int, pad: int) -> Array:
    """Rows x (token, mark, document number) x length; a document never crosses a row."""
    rows: list[list[list[int]]] = []
    row: list[list[int]] = [[], [], []]
    number = 0

    def close() -> None:
        nonlocal row, number
        missing = length - len(row[0])
        rows.append([row[0] + [pad] * missing, row[1] + [0] * missing, row[2] + [0] * missing])
        row, number = [[], [], []], 0

    for ids, marks in pieces:
        ids, marks = ids[:length], marks[:length]
        if len(row[0]) + len(ids) > length:
            close()
        number += 1
        for column, values in zip(row, (ids, marks, [number] * len(ids)), strict=True):
            column.extend(values)
    close()
    return np.array(rows, dtype=np.uint16)


def shard(tokenizer_file: Path, seed: int, count: int, length: int) -> Array:
    """Generate, encode and pack one shard; the same arguments give the same bytes."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    special = special_ids(tokenizer)
    assistant = tokenizer.encode("assistant").ids[0]
    encoded = tokenizer.encode_batch(documents(seed, count), add_special_tokens=False)
    pieces = ((item.ids, trained_marks(item.ids, special, assistant)) for item in encoded)
    return pack(pieces, length, special[PAD])
