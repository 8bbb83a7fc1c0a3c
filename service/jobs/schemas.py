"""Jobs, events and checkpoints on the wire: OpenAI's shapes with our LoRA fields."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from service.jobs.lifecycle import Status
from service.training.graders.shapes import Grader
from service.training.spec import Method
from service.wire import Output

Time = Annotated[int, Meta(description="Unix time in seconds.")]


class Hyperparameters(Output):
    """As trained with, `auto` resolved."""

    batch_size: int
    learning_rate_multiplier: float
    n_epochs: int


class Lora(Output):
    """The adapter's shape."""

    rank: int
    alpha: float
    dropout: float
    target_modules: list[str]
    rslora: bool


Quantization = Literal["nf4", "none", "auto"]


class EarlyStopping(Output):
    """When the job ends before its last epoch."""

    patience: int
    min_delta: float


class SupervisedMethod(Output):
    """As trained with, `auto` resolved; a quantization still `auto` is chosen by free memory."""

    hyperparameters: Hyperparameters
    lora: Lora
    quantization: Quantization
    learning_rate: float
    max_length: int
    warmup_ratio: float
    gradient_clip: float
    validation_split: float
    eval_steps: int | None
    early_stopping: EarlyStopping | None
    base_adapter: Annotated[
        str | None, Meta(description="The exact name of the model that the job goes on from.")
    ]


class DpoHyperparameters(Hyperparameters):
    """As trained with, `auto` resolved."""

    beta: float


class DpoMethod(SupervisedMethod):
    """As trained with on preferences."""

    hyperparameters: DpoHyperparameters


class ReinforcementHyperparameters(Hyperparameters):
    """As trained with, `auto` resolved."""

    compute_multiplier: float
    eval_interval: int
    eval_samples: int
    reasoning_effort: Literal["default"]


class ReinforcementMethod(SupervisedMethod):
    """As trained with on graded answers."""

    hyperparameters: ReinforcementHyperparameters
    grader: Grader
    max_completion_tokens: int


class JobMethod(Output):
    """How the job fine-tunes; `type` names the one that is not null."""

    type: Method
    supervised: SupervisedMethod | None
    dpo: DpoMethod | None
    reinforcement: ReinforcementMethod | None

    def chosen(self) -> SupervisedMethod:
        """Give the one that `type` names."""
        method = self.supervised or self.dpo or self.reinforcement
        assert method is not None
        return method


class JobError(Output):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class Publish(Output):
    """The alias that names the result as soon as the job succeeds."""

    alias: str


class Job(Output):
    """A fine-tuning job. `organization_id` is the tenant; `adapter` is what the job makes."""

    id: str
    object: str
    created_at: Time
    error: JobError | None
    fine_tuned_model: Annotated[
        str | None, Meta(description="The exact name to call; null until the job has succeeded.")
    ]
    finished_at: Time | None
    hyperparameters: Hyperparameters
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Status
    trained_tokens: Annotated[int | None, Meta(description="Null until the job has ended.")]
    training_file: str
    validation_file: str | None
    estimated_finish: Annotated[Time | None, Meta(description="Null unless the job is running.")]
    integrations: list[Any] | None
    metadata: dict[str, str] | None
    method: JobMethod
    suffix: str | None
    adapter: str
    publish: Publish | None
    priority: Annotated[int, Meta(description="Among the tenant's own jobs.")]


class JobList(Output):
    """One page of jobs, newest first; the next page's `after` is the last one's id."""

    object: str
    data: list[Job]
    has_more: bool


class JobEvent(Output):
    """One dated fact about a job.

    Of a metrics event, `data` holds `step` with `total_steps`, `train_loss`,
    `train_mean_token_accuracy`, `learning_rate` and `tokens_per_second`; or, of an evaluation,
    with `valid_loss` and `valid_mean_token_accuracy` (step 0 is the base before training). With
    `dpo` there are also `rewards/margins` and the like, with `reinforcement` `train_mean_reward`
    and `valid_mean_reward`.
    """

    id: str
    object: str
    created_at: Time
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


class JobEventList(Output):
    """One page of events, newest first; the next page's `after` is the last one's id."""

    object: str
    data: list[JobEvent]
    has_more: bool


class CheckpointMetrics(Output):
    """Measured at the checkpoint; what was not measured is null."""

    step: int
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None


class JobCheckpoint(Output):
    """An epoch's end; `fine_tuned_model_checkpoint` is callable."""

    id: str
    object: str
    created_at: Time
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int


class JobCheckpointList(Output):
    """One page of checkpoints, newest first."""

    object: str
    data: list[JobCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
