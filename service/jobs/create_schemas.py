"""The body that creates a job: OpenAI's fields, and the LoRA ones of ours under `method`."""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from service.training.graders.shapes import Grader
from service.training.spec import MAX_BATCH, MAX_LENGTH, MAX_RANK, Method
from service.wire import Input

Auto = Literal["auto"]

Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64)],
        Annotated[str, Meta(max_length=512)],
    ],
    Meta(max_length=16, description="Up to 16 pairs of strings, kept with the job."),
]

NotYet = Annotated[Any, Meta(description="Not supported yet: leave it out.")]


Unservable = Annotated[
    Any,
    Meta(description="The serving engine loads plain LoRA only: leave it out."),
]

UNSERVABLE = (
    "use_dora",
    "bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
)
"""PEFT's settings that make more, or other, than plain LoRA of one rank."""


class HyperparameterChoice(Input):
    """OpenAI's knobs; `auto` is chosen for you and shown resolved in the job."""

    batch_size: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=MAX_BATCH)],
        Meta(description="Examples in each optimizer step. `auto` is 8."),
    ] = "auto"
    learning_rate_multiplier: Annotated[
        Auto | Annotated[float, Meta(gt=0, le=1000)],
        Meta(description="Multiplies `learning_rate`. `auto` is 1."),
    ] = "auto"
    n_epochs: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=50)],
        Meta(description="Passes over the data. `auto` is 3, and 5 to 10 under 100 examples."),
    ] = "auto"


class LoraChoice(Input):
    """The adapter's shape. With a `base_adapter`, all but the dropout are that one's."""

    rank: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_RANK)] | None, Meta(description="Default: 16.")
    ] = None
    alpha: Annotated[
        Annotated[float, Meta(gt=0, le=65536)] | None, Meta(description="Default: 32.")
    ] = None
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    target_modules: Annotated[
        Annotated[list[str], Meta(min_length=1, max_length=64)] | None,
        Meta(description="Names of linear layers of the base. Default: q, k, v and o projections."),
    ] = None
    rslora: Annotated[
        bool | None, Meta(description="Scale by alpha / sqrt(rank). Default: false.")
    ] = None
    use_dora: Unservable = None
    bias: Unservable = None
    modules_to_save: Unservable = None
    rank_pattern: Unservable = None
    alpha_pattern: Unservable = None
    layers_to_transform: Unservable = None


class EarlyStoppingChoice(Input):
    """When to end before the last epoch; the result is then the best that was evaluated."""

    patience: Annotated[
        int, Meta(ge=1, le=1000, description="Evaluations in a row without improvement.")
    ]
    min_delta: Annotated[
        float, Meta(ge=0, le=1000, description="By how much the validation loss has to fall.")
    ] = 0.0


class SupervisedChoice(Input):
    """How to train on examples."""

    hyperparameters: HyperparameterChoice = field(default_factory=HyperparameterChoice)
    lora: LoraChoice = field(default_factory=LoraChoice)
    quantization: Annotated[
        Literal["nf4", "none", "auto"],
        Meta(description="How the frozen base is held while training. `auto` is the server's."),
    ] = "auto"
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 2e-4
    max_length: Annotated[
        Annotated[int, Meta(ge=8, le=MAX_LENGTH)] | None,
        Meta(description="Longer examples are cut. Default: 2048, or the base's context."),
    ] = None
    warmup_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.03
    gradient_clip: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    validation_split: Annotated[
        Annotated[float, Meta(ge=0, le=0.5)] | None,
        Meta(
            description="Share of the rows held out. Default: 0.05 and at most 64 rows; 0.1 under "
            "100 examples; none when there is a `validation_file`."
        ),
    ] = None
    eval_steps: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="Evaluate every so many steps as well. Default: after epochs only."),
    ] = None
    early_stopping: EarlyStoppingChoice | None = None
    base_adapter: Annotated[
        Annotated[str, Meta(min_length=1, max_length=512)] | None,
        Meta(description="A fine-tuned model of yours to go on from, by any of its names."),
    ] = None


class DpoHyperparameterChoice(HyperparameterChoice):
    """OpenAI's knobs of preference optimisation."""

    beta: Annotated[
        Auto | Annotated[float, Meta(gt=0, le=2)],
        Meta(description="How much it costs to move away from the base. `auto` is 0.1."),
    ] = "auto"


class DpoChoice(SupervisedChoice):
    """How to train on preferences: as on examples, with a knob and a smaller step."""

    hyperparameters: DpoHyperparameterChoice = field(default_factory=DpoHyperparameterChoice)
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 5e-5


class ReinforcementHyperparameterChoice(HyperparameterChoice):
    """OpenAI's knobs of reinforcement; a batch's examples are prompts."""

    compute_multiplier: Annotated[
        Auto | Annotated[float, Meta(ge=0.25, le=8)],
        Meta(description="Times 8: the answers sampled for each prompt. `auto` is 1."),
    ] = "auto"
    eval_interval: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=100_000)],
        Meta(description="Steps between measurements; an epoch's end is always one. `auto` is it."),
    ] = "auto"
    eval_samples: Annotated[
        Auto | Annotated[int, Meta(ge=1, le=16)],
        Meta(description="Answers sampled for each held-out prompt. `auto` is 1."),
    ] = "auto"
    reasoning_effort: Annotated[
        Literal["default", "low", "medium", "high"],
        Meta(description="Only `default`: the base has no levels of it."),
    ] = "default"


class ReinforcementChoice(SupervisedChoice, kw_only=True):
    """How to train on graded answers: a grader, and what training on examples has as well."""

    grader: Grader
    hyperparameters: ReinforcementHyperparameterChoice = field(
        default_factory=ReinforcementHyperparameterChoice
    )
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 5e-5
    max_completion_tokens: Annotated[
        int, Meta(ge=1, le=4096, description="A sampled answer is cut there.")
    ] = 256
    response_format: NotYet = None


class MethodChoice(Input):
    """How to fine-tune."""

    type: Method
    supervised: SupervisedChoice | None = None
    dpo: DpoChoice | None = None
    reinforcement: ReinforcementChoice | None = None


class PublishChoice(Input):
    """What happens to the result, besides that it gets its own name."""

    alias: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="An alias of the job's adapter, like `production`: it names the result "
            "alone as soon as the job succeeds.",
        ),
    ]


class CreateJob(Input):
    """What to train, on which file."""

    model: Annotated[
        str,
        Meta(description="The base model's id; or `ft:...`, which means it as `base_adapter`."),
    ]
    training_file: Annotated[str, Meta(description="Id of a file with purpose `fine-tune`.")]
    validation_file: Annotated[
        str | None, Meta(description="Id of a file to measure on; replaces the held-out split.")
    ] = None
    suffix: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        Meta(
            description="The adapter's name: lower-case letters, digits, `.` and `-`, beginning "
            "with a letter or digit. A name in use gets a new revision. Default: from the job's id."
        ),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2147483647)] | None,
        Meta(description="Same seed and job, same adapter. Default: random."),
    ] = None
    method: MethodChoice | None = None
    hyperparameters: Annotated[
        HyperparameterChoice | None,
        Meta(description="Deprecated by OpenAI; honoured when there is no `method`."),
    ] = None
    metadata: Metadata | None = None
    priority: Annotated[
        int,
        Meta(
            ge=-100,
            le=100,
            description="Among your own jobs: higher ones are begun first, and each 50 above "
            "another's double a job's share of what you train at once.",
        ),
    ] = 0
    integrations: Annotated[
        list[Any] | None, Meta(description="Not supported: leave it out, or empty.")
    ] = None
    publish: PublishChoice | None = None
