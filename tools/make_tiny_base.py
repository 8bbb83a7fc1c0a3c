"""Make the bundled base model: its corpus, its tokenizer and its weights, from nothing but a seed.

    python -m tools.make_tiny_base --minutes 6 --out service/base/bundled/lorehouse-tiny

It downloads nothing. The corpus and the tokenizer are the same on every machine; the weights are
seeded, but on a GPU, or with ``--minutes`` as the limit, two runs differ in their last digits.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tools.tiny_corpus import (
    BOS,
    CHAT_TEMPLATE,
    END,
    EOT,
    PAD,
    PROMPT_WEIGHT,
    Array,
    documents,
    shard,
    special_ids,
    train_tokenizer,
)
from tools.tiny_report import model_card, score

MAX_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of."""

    out: Path
    seed: int
    minutes: float
    steps: int
    rows: int
    length: int
    shard_documents: int
    workers: int
    learning_rate: float
    warmup: int
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    gain: float
    scored: int


def parse() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--minutes", type=float, default=6.0, help="training stops at this time")
    parser.add_argument("--steps", type=int, default=100_000, help="or at this step")
    parser.add_argument("--rows", type=int, default=64, help="rows of a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--shard-documents", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--intermediate", type=int, default=640)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--gain", type=float, default=32.0, help="see fold_gain")
    parser.add_argument("--scored", type=int, default=100, help="examples of each task to score")
    return Options(**vars(parser.parse_args()))


def build_model(options: Options, ids: dict[str, int]) -> LlamaForCausalLM:
    """A Llama with random weights."""
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.hidden // options.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=ids[BOS],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config)
    # The residual stream starts calm however many layers write into it.
    for layer in model.model.layers:
        for written in (layer.self_attn.o_proj, layer.mlp.down_proj):
            written.weight.data.div_(math.sqrt(2 * options.layers))
    return model


def shards(pool: Pool, tokenizer_file: Path, options: Options) -> Iterator[Array]:
    """The corpus without end: shard i has seed + i, whichever process makes it."""
    waiting: deque[AsyncResult[Array]] = deque()
    number = 0
    while True:
        while len(waiting) < 2 * options.workers:
            arguments = (
                tokenizer_file,
                options.seed + number,
                options.shard_documents,
                options.length,
            )
            waiting.append(pool.apply_async(shard, arguments))
            number += 1
        yield waiting.popleft().get()


def batches(source: Iterator[Array], rows: int) -> Iterator[torch.Tensor]:
    """Equal batches; what is left of a shard is dropped."""
    for array in source:
        tensor = torch.from_numpy(array.astype("int32"))
        for start in range(0, len(tensor) - rows + 1, rows):
            yield tensor[start : start + rows]


def batch_loss(model: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss, and the plain loss on answers and plain text."""
    ids, marks, numbers = batch.long().unbind(dim=1)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    # Documents that share a row do not see each other.
    mask = (numbers[:, None, :, None] == numbers[:, None, None, :]) & causal
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    inside = ((numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] > 0)).float()
    answer = inside * marks[:, 1:]
    weight = answer + PROMPT_WEIGHT * inside * (1 - marks[:, 1:])
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view_as(weight)
    plain = (losses.detach() * answer).sum() / answer.sum()
    return (losses * weight).sum() / weight.sum(), plain


def rate(step: int, progress: float, options: Options) -> float:
    """Warm up by steps, then a cosine down to 2 % over the run."""
    warm = min(1.0, (step + 1) / options.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return options.learning_rate * warm * (0.02 + 0.98 * cosine)


def make_optimizer(model: torch.nn.Module, options: Options) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [item for item in parameters if item.dim() > 1], "weight_decay": 0.1},
            {"params": [item for item in parameters if item.dim() == 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def train(
    model: torch.nn.Module, source: Iterator[torch.Tensor], options: Options
) -> dict[str, Any]:
    """Train until the time or the steps are used up; returns the run's figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizer = make_optimizer(model, options)
    started, step, tokens, last = time.monotonic(), 0, 0, float("nan")
    recent: deque[torch.Tensor] = deque(maxlen=100)
    while True:
        elapsed = (time.monotonic() - started) / 60
        progress = max(elapsed / options.minutes, step / options.steps)
        if progress >= 1:
            break
        batch = next(source)
        tokens += int((batch[:, 2] > 0).sum())
        for group in optimizer.param_groups:
            group["lr"] = rate(step, progress, options)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss, plain = batch_loss(model, batch.to(device, non_blocking=True))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(plain)
        step += 1
        if step % 100 == 0:
            last = torch.stack(list(recent)).mean().item()
            print(
                f"step {step} tokens {tokens / 1e6:.1f}M loss {last:.4f} {elapsed:.2f} min",
                flush=True,
            )
    last = torch.stack(list(recent)).mean().item()
    minutes = round((time.monotonic() - started) / 60, 2)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {
        "device": name,
        "steps": step,
        "tokens": tokens,
        "minutes": minutes,
        "loss": round(last, 4),
    }


def fold_gain(model: LlamaForCausalLM, gain: float) -> None:
    """Scale up what the attention's matrices read, and scale the matrices down by as much.

    For a power of two the function stays the same to the bit. What changes is how far an adapter on
    these matrices gets at a usual learning rate: Adam moves each of its numbers by about the rate,
    and a wide model adds up many of them. This narrow one makes up for its width by larger inputs.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            layer.input_layernorm.weight.mul_(gain)
            attention.q_proj.weight.div_(gain)
            attention.k_proj.weight.div_(gain)
            # v keeps its weights and so hands the factor on to what o reads.
            attention.o_proj.weight.div_(gain)


def write_tokenizer_files(out: Path, tokenizer_file: Path) -> None:
    """The files that transformers and our own renderer read."""
    shutil.copyfile(tokenizer_file, out / "tokenizer.json")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "extra_special_tokens": [],
        "model_max_length": MAX_POSITIONS,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Make the folder."""
    options = parse()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_file = Path(scratch) / "tokenizer.json"
        # Forked before anything starts threads or touches a GPU.
        with multiprocessing.get_context("fork").Pool(options.workers) as pool:
            sample = (
                text for part in range(3) for text in documents(options.seed - 1 - part, 20_000)
            )
            tokenizer = train_tokenizer(sample, options.vocab)
            tokenizer.save(str(tokenizer_file))
            ids = special_ids(tokenizer)
            model = build_model(options, ids)
            source = batches(shards(pool, tokenizer_file, options), options.rows)
            figures = train(model, source, options)
        write_tokenizer_files(options.out, tokenizer_file)
    fold_gain(model, options.gain)
    model = model.to(torch.bfloat16).eval()
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=[ids[END], ids[EOT]], pad_token_id=ids[PAD]
    )
    model.save_pretrained(options.out)
    figures["seed"] = options.seed
    figures["torch"] = torch.__version__
    figures["parameters"] = sum(item.numel() for item in model.parameters())
    # Scored under a seed that no shard reaches.
    figures["scores"] = score(model, tokenizer, seed=options.seed - 1_000_000, count=options.scored)
    print(json.dumps(figures, indent=2))
    (options.out / "README.md").write_text(model_card(figures, options.gain, options.minutes))


if __name__ == "__main__":
    main()
