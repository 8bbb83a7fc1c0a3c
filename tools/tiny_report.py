"""What the tiny base can do, measured on its own tasks, and the model card that says so."""

from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tools.tiny_corpus import PAD, START, render
from tools.tiny_desk_tasks import DESK_TASKS, open_style
from tools.tiny_tasks import GENERAL_TASKS, tell

OPEN_ENDED = {open_style, tell}
NEW_TOKENS = 64


def answers(model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: list[str]) -> list[str]:
    """Greedy answers, cut at the end-of-turn token; one that never ends counts as none."""
    encoded = [item.ids for item in tokenizer.encode_batch(prompts, add_special_tokens=False)]
    longest = max(len(ids) for ids in encoded)
    pad = tokenizer.token_to_id(PAD)
    padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded])
    output = model.generate(
        input_ids=padded.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    stops = set(model.generation_config.eos_token_id)
    texts = []
    for row in output[:, longest:].tolist():
        end = next((place for place, token in enumerate(row) if token in stops), None)
        texts.append("<unfinished>" if end is None else tokenizer.decode(row[:end]))
    return texts


def score(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int, count: int) -> dict[str, float]:
    """Exact match of the last answer, per task."""
    scores: dict[str, float] = {}
    if not count:
        return scores
    for task, _ in [*DESK_TASKS, *GENERAL_TASKS]:
        if task in OPEN_ENDED:
            continue
        rng = Random(seed)
        conversations = [task(rng) for _ in range(count)]
        prompts = [render(turns[:-1]) + f"{START}assistant\n" for turns in conversations]
        given = answers(model, tokenizer, prompts)
        wanted = [turns[-1][1] for turns in conversations]
        hits = sum(one == other for one, other in zip(given, wanted, strict=True))
        scores[task.__name__] = round(hits / count, 3)
    return scores


CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# lorehouse-tiny

A language model of {millions:.2f} million parameters that comes with Lorehouse, so that tests,
the demonstration and a first try need no download and no GPU. Llama architecture, bf16 weights,
every dimension a multiple of 64, a byte-level BPE tokenizer of its own with 4096 tokens, a
ChatML-style chat template.

**What it is for.** It follows the form of short instructions (extract, label, copy, map by a
table, count, small sums) in short English texts, ends its turns, and a LoRA adapter teaches it
a new task from a few hundred examples in about a minute on two CPU cores.

**What it is not.** It knows nothing about the world beyond some capitals and opposites, it
cannot hold a conversation, and it must not be used to judge the quality that fine-tuning
reaches on a real model. It was trained on at most 1024 tokens of context (2048 positions are
allowed).

## Special tokens

`<|begin_of_text|>` stands once, at the start, and the chat template is the only place that
writes it: the tokenizer adds no special token by itself. `<|im_start|>` opens a turn,
`<|im_end|>` ends it and is trained; `<|endoftext|>` ends plain text; `<|pad|>` pads. Roles:
system, user, assistant, tool. A turn's tool calls are written as JSON, which the model was not
trained on. Plain text was trained with and without `<|begin_of_text|>`.

## How it was made

    python -m tools.make_tiny_base --minutes {minutes_asked} \\
        --out service/base/bundled/lorehouse-tiny

All text comes from seeded grammars in `tools/tiny_*.py` (seed {seed}; nothing was downloaded,
no text of people and no output of another model is in it). The corpus and the tokenizer are the
same on every machine. The weights are seeded, but a run on CUDA, or one that stops by the
clock, is not reproducible bit for bit. The codes of the demonstration tenants in `examples/`
(which begin with AQ and GX) are kept out of the corpus by construction.

| | |
|---|---|
| run on | {device}, torch {torch} |
| tokens seen | {millions_of_tokens:.0f} million in {steps} steps |
| time | {minutes} minutes |
| final training loss (answers and plain text; mean of the last 100 steps) | {loss} |
| parameters | {parameters} |

After training, the inputs of the attention's matrices were scaled by {gain:g} and the matrices
divided by as much, which leaves every logit as it is and lets an adapter on q, k, v and o learn
at the usual rate of 2e-4 (`fold_gain` says why). With the demonstration's data, rates from 1e-4
to 5e-4 work and 1e-3 is too high; `examples/README.md` has the figures.

Exact match of greedy answers, end of turn included, in bf16 on the machine above, on fresh
examples of the corpus's own tasks. Some of these have answers that are partly free (an untold
secret, the first answer in an unknown style, the name of any animal) and cannot reach 1:

| task | exact match |
|---|---|
{rows}

## Licence

Apache-2.0, like the rest of Lorehouse.
"""


def model_card(figures: dict[str, Any], gain: float, minutes_asked: float) -> str:
    """The card, with the run's own figures."""
    rows = "\n".join(f"| {task} | {value:.2f} |" for task, value in figures["scores"].items())
    return CARD.format(
        **{key: value for key, value in figures.items() if key != "scores"},
        millions=figures["parameters"] / 1e6,
        millions_of_tokens=figures["tokens"] / 1e6,
        gain=gain,
        minutes_asked=f"{minutes_asked:g}",
        rows=rows,
    )
