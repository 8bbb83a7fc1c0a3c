"""What `POST /v1/fine_tuning/plan` answers."""

from typing import Annotated, Literal

from msgspec import Meta

from service.jobs.schemas import JobError, JobMethod
from service.wire import Output

Bytes = Annotated[int, Meta(description="In bytes.")]


class PlannedExamples(Output):
    """The rows of one side, as training renders them."""

    examples: Annotated[int, Meta(description="Those that are learned from, or measured with.")]
    tokens: Annotated[int, Meta(description="Of these, once; of a preference, both answers'.")]
    longest: Annotated[
        int,
        Meta(description="Tokens of the longest one; an answer to be sampled counts whole."),
    ]
    truncated: Annotated[int, Meta(description="Longer than `max_length`, and cut there.")]
    dropped: Annotated[int, Meta(description="Left out: nothing to learn lies within it.")]


class FrequentAnswer(Output):
    """An answer that several examples have, letter by letter."""

    answer: Annotated[str, Meta(description="Its first 100 characters.")]
    count: int
    share: Annotated[float, Meta(description="Of all answers.")]


class PlannedAnswers(Output):
    """What is to be learned, of the rows to train on: each example's last answer."""

    count: int
    near_empty: Annotated[int, Meta(description="With fewer than two letters or digits.")]
    different: Annotated[int | None, Meta(description="Null: 10,000 or more.")]
    most_frequent: Annotated[
        list[FrequentAnswer], Meta(description="The classes, if there are any: at most 20.")
    ]


class PlannedData(Output):
    """What the files hold."""

    rows: Annotated[int, Meta(description="Of the training file.")]
    train: PlannedExamples
    validation: PlannedExamples
    duplicates: Annotated[int, Meta(description="Rows to train on that are there already.")]
    overlap: Annotated[int, Meta(description="Held-out rows that are trained on as well.")]
    compared_rows: Annotated[
        int, Meta(description="Among which those two were looked for: all, or the first million.")
    ]
    answers: PlannedAnswers


class PlannedSteps(Output):
    """Optimizer steps."""

    per_epoch: int
    total: int
    warmup: int


class Advice(Output):
    """Something to think about before training. `code` is stable."""

    code: str
    message: str


class MemoryByPart(Output):
    """What this job alone takes of a device, at its largest step.

    `activations` is null, and with it what follows from it, where it cannot be told: with `dpo` and
    `reinforcement`.
    """

    base: Bytes
    adapters: Bytes
    optimizer: Annotated[int, Meta(description="In bytes; gradients and moments.")]
    activations: Annotated[int | None, Meta(description="In bytes, the loss's logits included.")]
    total: Annotated[int | None, Meta(description="In bytes.")]
    fits: Annotated[
        bool | None, Meta(description="Whether a tenth of the device's memory is left then.")
    ]
    tokens_in_row: Annotated[int | None, Meta(description="That go through the base at a time.")]
    weights_cached: Annotated[
        bool, Meta(description="Whether there is room for 4-bit weights dequantised as well.")
    ]
    recomputes: Annotated[
        bool, Meta(description="Whether layers are computed again on the way back, to save memory.")
    ]


class SharedCard(Output):
    """How a device is split where vLLM answers and the resident base trains on it.

    By the server's settings, for all jobs. What is null is so where `reason` says that they do not
    fit.
    """

    together: Annotated[
        bool | None,
        Meta(description="Both at once; else in turns: vLLM sleeps while jobs are trained."),
    ]
    gpu_memory_utilization: Annotated[
        float | None, Meta(description="What vLLM is given, of the whole.")
    ]
    kv_tokens: Annotated[int | None, Meta(description="That vLLM's cache holds.")]
    training_bytes: Annotated[
        int | None, Meta(description="What the resident base may take while it trains.")
    ]
    tokens_in_row: Annotated[
        int | None, Meta(description="The most that are trained on at a time, of all jobs.")
    ]
    longest_tokens: Annotated[
        int | None, Meta(description="Of an example that can be trained on there, alone in a row.")
    ]
    reason: Annotated[str | None, Meta(description="Why they do not fit, with the figures.")]


class PlannedDevice(Output):
    """A device, and what the job takes there, by how the base is held."""

    name: str
    bytes: Annotated[int, Meta(description="Its memory, or what was free before the base came.")]
    nf4: MemoryByPart
    bf16: MemoryByPart
    shared: Annotated[
        SharedCard | None,
        Meta(description="Null for a device on which the server does both on one base."),
    ]


class PlannedQuota(Output):
    """What the job would use of a quota. Null is no limit."""

    quota: str
    asked: int
    used: int
    limit: int | None


class JobPlan(Output):
    """What a job would be and do. Nothing was kept, and nothing runs."""

    object: Literal["fine_tuning.job.plan"]
    model: str
    training_file: str
    validation_file: str | None
    seed: Annotated[int, Meta(description="Of the split that was counted: give it to the job.")]
    method: JobMethod
    data: Annotated[
        PlannedData | None, Meta(description="Null if a row cannot be trained on: see `reason`.")
    ]
    steps: PlannedSteps | None
    trained_tokens: Annotated[
        int | None,
        Meta(
            description="That go through training, epochs counted; with early stopping and with "
            "`reinforcement`, whose answers are not known before, at most."
        ),
    ]
    advice: list[Advice]
    hardware: Annotated[
        list[PlannedDevice],
        Meta(description="That this server trains on now; empty while no runtime is there."),
    ]
    cards: Annotated[
        list[PlannedDevice], Meta(description="Common ones; empty for a base of unknown build.")
    ]
    tokens_per_second: Annotated[
        float | None,
        Meta(description="That jobs of this method lately got here; null: none was trained yet."),
    ]
    estimated_seconds: Annotated[
        int | None, Meta(description="Of the optimizer steps, at that rate, once they begin.")
    ]
    quotas: list[PlannedQuota]
    admitted: Annotated[
        bool,
        Meta(description="Whether a job would be accepted, and nothing is known to fail it."),
    ]
    reason: Annotated[JobError | None, Meta(description="Why not.")]
