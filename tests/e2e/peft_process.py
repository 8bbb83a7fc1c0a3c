"""Somebody else's script: trains an adapter with stock PEFT and generates with it, without us.

`python -m tests.e2e.peft_process BASE FOLDER` writes PEFT's folder `FOLDER/adapter`, and to
`FOLDER/answers.json` what PEFT's model answers, greedily, to prompts of token ids.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

TEXTS = [
    f"The password of room {room} is {word}."
    for room, word in enumerate(
        ["amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron"]
    )
]
PROMPTS = ["The password of room", "The password of room 5 is", "Once upon a time"]
STEPS, NEW_TOKENS = 120, 24


def main(base: str, folder: Path) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(f"{base}/tokenizer.json")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=6,
        lora_alpha=24,
        target_modules=["q_proj", "v_proj", "down_proj"],
        use_rslora=True,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    rows = [tokenizer.encode(text).ids for text in TEXTS]
    teach(tuned, rows)
    tuned.eval()
    tuned.save_pretrained(folder / "adapter")
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    answers = [answer(tuned, prompt) for prompt in prompts]
    with tuned.disable_adapter():
        plain = [answer(tuned, prompt) for prompt in prompts]
    told = [
        {"prompt": text, "tuned": tokenizer.decode(ours), "base": tokenizer.decode(theirs)}
        for text, ours, theirs in zip(PROMPTS, answers, plain, strict=True)
    ]
    (folder / "answers.json").write_text(json.dumps(told))


def teach(model: torch.nn.Module, rows: list[list[int]]) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(STEPS):
        ids = torch.tensor([rows[step % len(rows)]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def answer(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )
    return [int(token) for token in made[0, len(prompt) :]]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
