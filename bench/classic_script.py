"""Fine-tune one LoRA as guides show it: the peer of `guide`, run once for each tenant.

Loads the base in NF4, trains with batch 1, accumulation 8 and gradient checkpointing, and saves the
adapter. bfloat16 is what guides show: NF4 that computes in it, and autocast. Prints one JSON object
about its steps, which is all that it has for the bench.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Notes when each optimizer step ends."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time; TRL has waited for the loss already."""
        self.ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        """Seconds of a step, the first two left out."""
        pairs = itertools.pairwise(self.ends[2:])
        return statistics.median(after - before for before, after in pairs)


def load(base: str, dtype: torch.dtype) -> Any:
    """Load the base in NF4, double quantised."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=quantization,
        dtype=dtype,
        device_map={"": 0} if torch.cuda.is_available() else {"": "cpu"},
    )
    return prepare_model_for_kbit_training(model)


def arguments(out: Path, epochs: int, steps: int, dtype: torch.dtype) -> SFTConfig:
    """Spell the guide's settings; `steps` other than -1 end the run early."""
    return SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        gradient_checkpointing=True,
        num_train_epochs=epochs,
        max_steps=steps,
        learning_rate=2e-4,
        max_length=2048,
        bf16=dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    """Train on a file of messages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    clock = StepClock()
    trainer = SFTTrainer(
        model=load(given.base, dtype),
        args=arguments(given.out, given.epochs, given.steps, dtype),
        train_dataset=load_dataset("json", data_files=given.data, split="train"),
        processing_class=AutoTokenizer.from_pretrained(given.base),
        peft_config=LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.05,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(str(given.out))
    print(json.dumps({"steps": trainer.state.global_step, "step_seconds": clock.median}))


if __name__ == "__main__":
    main()
