"""Group-relative policy optimisation, on TRL's GRPOTrainer and a twin of the base."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from service.rendering.renderer import Renderer
from service.training.batch.order import Order, order_of
from service.training.counting import sampling
from service.training.probing import of_prompts
from service.training.prompts import Prompt, Prompts, render_prompts
from service.training.reporting import Schedule
from service.training.resumable import Resumable, arguments
from service.training.rows import micro_batch
from service.training.solo import Counts, Run, SoloTrainer
from service.training.spec import ReinforcementSpec, TrainingSpec
from service.training.trainer import Evaluated, TrainingError, TrainingTask

TOKENS_AT_ONCE = 16384
"""In one forward pass, padding included; larger batches accumulate."""

ERRORS = "grader_error_rate"
LOGGED = {
    "reward": "train_mean_reward",
    "reward_std": "train_reward_std",
    "completions/mean_length": "train_mean_completion_tokens",
    ERRORS: f"train_{ERRORS}",
}
_NO_EOS = "the base has no token that ends an answer"


class ReinforcementTrainer(SoloTrainer):
    """Implements `Trainer` for tasks of the method `reinforcement`."""

    def prepare(self, task: TrainingTask, model: Any) -> Run:
        """See SoloTrainer.prepare."""
        spec, chosen = task.spec, sampling(task.spec)
        prompts = render_prompts(self.renderer, task, chosen)
        order = order_of(spec, len(prompts.train))
        schedule = Schedule(
            order.steps_per_epoch, order.total_steps, self.checkpoint_steps, chosen.eval_interval
        )
        ends = self.loaded.description.eos_token_ids
        if not ends:
            raise TrainingError(f"It cannot be trained: {_NO_EOS}", "invalid_value", "model")
        model.generation_config.eos_token_id = list(ends)
        trainer = ResumableGrpo(
            self.loaded.description.name,
            spec,
            prompts,
            order,
            self.renderer,
            model=model,
            args=self._arguments(task, chosen, prompts, order),
        )
        return Run(
            task=task,
            trainer=trainer,
            schedule=schedule,
            checkpoints=self.checkpoints(task, [*prompts.train, *prompts.validation]),
            counts=Counts(len(prompts.train), len(prompts.validation), 0, prompts.dropped),
            evaluate=lambda step: trainer.measure(step, chosen.eval_samples),
            logged=LOGGED,
            probes=of_prompts(prompts.train),
        )

    def _arguments(
        self, task: TrainingTask, chosen: ReinforcementSpec, prompts: Prompts, order: Order
    ) -> GRPOConfig:
        sequences = task.spec.batch_size * chosen.completions
        longest = prompts.longest + chosen.max_completion_tokens
        shared = arguments(
            task.spec,
            sequences=sequences,
            micro_batch=micro_batch(sequences, longest, TOKENS_AT_ONCE),
            total_steps=order.total_steps,
            workdir=task.workdir,
            loaded=self.loaded,
        )
        # TRL counts the tokens itself, from what it generated.
        shared["include_num_input_tokens_seen"] = "no"
        return GRPOConfig(
            **shared,
            num_generations=chosen.completions,
            max_completion_length=chosen.max_completion_tokens,
        )


class ResumableGrpo(Resumable, GRPOTrainer):
    """TRL's trainer on our checkpoints, tokens, order and graders.

    Each optimizer step samples its own completions, so that a checkpoint between two steps needs
    none. An epoch's last batch is filled up from the epoch's beginning.
    """

    def __init__(
        self,
        base_name: str,
        spec: TrainingSpec,
        prompts: Prompts,
        order: Order,
        renderer: Renderer,
        **given: Any,
    ) -> None:
        self._prompts = prompts
        self._order = order
        self._tokenizer_of_base = renderer.tokenizer
        super().__init__(
            base_name,
            spec,
            reward_funcs=self._rewards,
            # The texts that TRL asks for are the places of our prompts.
            train_dataset=Dataset.from_dict(
                {"prompt": [str(place) for place in range(len(prompts.train))]}
            ),
            processing_class=_tokenizer(renderer),
            **given,
        )

    def measure(self, step: int, samples: int) -> Evaluated | None:
        """Give the mean reward of held-out prompts.

        Samples alike at every step, from random numbers of its own.
        """
        held_out = [prompt for prompt in self._prompts.validation for _ in range(samples)]
        if not held_out:
            return None
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed)
            ids = [prompt.input_ids for prompt in held_out]
            answers, _ = self._generate_single_turn(ids, None, {}, 1)
        mean, errors = _mean(self._grades(held_out, answers))
        metrics = {"valid_mean_reward": mean, f"valid_{ERRORS}": errors}
        return Evaluated(step, None, None, metrics)

    def _rewards(
        self, *, prompts: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        asked = [self._prompts.train[int(place)] for place in prompts]
        grades = self._grades(asked, completion_ids)
        self._metrics["train"][ERRORS].append(_mean(grades)[1])
        return [grade or 0.0 for grade in grades]

    def _grades(self, asked: Sequence[Prompt], answers: list[list[int]]) -> list[float | None]:
        texts = self._tokenizer_of_base.decode_batch(answers, skip_special_tokens=True)
        grade = self._prompts.grade
        return [grade(text, prompt.item) for text, prompt in zip(texts, asked, strict=True)]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompts.train[int(place)].input_ids for place in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *given: Any
    ) -> tuple[list[list[int]], None]:
        """Sample without dropout, as the adapter will be served, as much at once as is learned."""
        training, size = self.model.training, self.args.per_device_train_batch_size
        answers: list[list[int]] = []
        self.model.eval()
        try:
            for start in range(0, len(prompt_ids), size):
                part = prompt_ids[start : start + size]
                answers += super()._generate_single_turn(part, *given)[0]
        finally:
            self.model.train(training)
        return answers, None

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return _Groups(self)


class _Groups(Sampler[int]):
    """An epoch's batches, each prompt once for each of its completions.

    Each batch comes as often as the step has parts: TRL samples at the first and keeps the rest.
    """

    def __init__(self, trainer: ResumableGrpo) -> None:
        self._trainer = trainer

    def __len__(self) -> int:
        args, order = self._trainer.args, self._trainer._order
        sequences = order.batch_size * int(args.num_generations)
        return order.steps_per_epoch * sequences * int(args.steps_per_generation)

    def __iter__(self) -> Iterator[int]:
        order, args = self._trainer._order, self._trainer.args
        epoch = self._trainer.state.global_step // order.steps_per_epoch
        first = epoch * order.steps_per_epoch
        for step in range(first, first + order.steps_per_epoch):
            batch = self._filled(step, first)
            group = [place for place in batch for _ in range(args.num_generations)]
            for _ in range(args.steps_per_generation):
                yield from group

    def _filled(self, step: int, first: int) -> list[int]:
        order = self._trainer._order
        batch, fill = list(order.batch(step)), first
        while len(batch) < order.batch_size:
            batch += order.batch(fill)[: order.batch_size - len(batch)]
            fill += 1
        return batch


def _tokenizer(renderer: Renderer) -> PreTrainedTokenizerFast:
    """Wrap the base's tokenizer, of which TRL needs the special tokens."""
    end = renderer.tokenizer.id_to_token(renderer.base.eos_token_ids[0])
    own = Tokenizer.from_str(renderer.tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token=end, pad_token=end)


def _mean(grades: Sequence[float | None]) -> tuple[float, float]:
    """Give the mean grade, none counting 0, and the share that are none."""
    missing = sum(grade is None for grade in grades)
    return sum(grade or 0.0 for grade in grades) / len(grades), missing / len(grades)
