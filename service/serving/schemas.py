"""What the three generation endpoints share on the wire."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from service.wire import Input, Output

MOST_CHOICES = 128
"""OpenAI's limit of `n`."""

MOST_BIASES = 1024
MOST_STOP_TOKENS = 256

UNLIKELIEST = -9999.0
"""Stands for minus infinity, which JSON has no number for; OpenAI writes the same."""

FinishReason = Literal["stop", "length"]

ModelName = Annotated[
    str,
    Meta(
        min_length=1,
        description="The base's id, a fine-tuned model's name, or an adapter of the tenant: "
        "`{adapter}`, `{adapter}@{alias}` or `{adapter}@{revision}`.",
        examples=["ft:lorehouse-tiny:acme:support:1a2b3c4d"],
    ),
]

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIdText = Annotated[str, Meta(pattern="^[0-9]{1,10}$")]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1)]

Choices = Annotated[
    Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None,
    Meta(description="Answers to each prompt, at most as many as the engine's batch holds."),
]

Metadata = Annotated[
    Annotated[
        dict[
            Annotated[str, Meta(max_length=64)],
            Annotated[str, Meta(max_length=512)],
        ],
        Meta(max_length=16),
    ]
    | None,
    Meta(description="Up to 16 pairs of strings. Accepted; it changes nothing here."),
]

Ignored = Annotated[str | None, Meta(description="Accepted; it changes nothing here.")]
Refused = Annotated[
    Any, Meta(description="Not supported: leave it out, or at the value that asks for nothing.")
]


class SamplingFields(Input):
    """How tokens are picked: OpenAI's fields, and others under the names that vLLM gives them.

    In this order: bias, penalties, temperature, `min_p`, `top_k`, `top_p`.
    """

    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(description="0 takes the likeliest token; higher is more random. Default 1."),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Sample from the likeliest tokens that hold this much. Default 1."),
    ] = None
    top_k: Annotated[
        Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None,
        Meta(description="Sample from so many likeliest tokens; 0 or -1: from all. Default 0."),
    ] = None
    min_p: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="Leave out tokens less likely than this share of the likeliest one's "
            "probability. Default 0."
        ),
    ] = None
    frequency_penalty: Annotated[
        Penalty | None,
        Meta(description="Taken off a token's logit for each time it was generated. Default 0."),
    ] = None
    presence_penalty: Annotated[
        Penalty | None,
        Meta(description="Taken off a token's logit once it was generated. Default 0."),
    ] = None
    repetition_penalty: Annotated[
        Annotated[float, Meta(ge=0.01, le=100)] | None,
        Meta(
            description="Divides the positive and multiplies the negative logits of tokens that "
            "are in the prompt or were generated. Default 1."
        ),
    ] = None
    logit_bias: Annotated[
        Annotated[
            dict[TokenIdText, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MOST_BIASES)
        ]
        | None,
        Meta(description="What is added to the logits of tokens, by token id."),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None,
        Meta(description="The same seed and request give the same answer, whoever else is served."),
    ] = None
    stop: Annotated[
        StopString | Annotated[list[StopString], Meta(max_length=16)] | None,
        Meta(description="Up to 16 strings that end the answer; the answer does not hold them."),
    ] = None
    stop_token_ids: Annotated[
        Annotated[list[TokenId], Meta(max_length=MOST_STOP_TOKENS)] | None,
        Meta(description="Tokens that end the answer; the answer does not hold them."),
    ] = None
    min_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(
            description="So many tokens are generated before an end-of-turn token or one of "
            "`stop_token_ids` may be; a stop string ends the answer even so. Default 0."
        ),
    ] = None
    ignore_eos: Annotated[
        bool | None, Meta(description="Go on after end-of-turn tokens. Default false.")
    ] = None
    prompt_cache_key: Annotated[
        str | None,
        Meta(
            description="Requests with the same one get the same revision of an alias that names "
            "several."
        ),
    ] = None
    user: Annotated[
        str | None, Meta(description="Stands in where there is no `prompt_cache_key`.")
    ] = None


class StreamOptions(Input):
    """How to stream; only together with `stream: true`."""

    include_usage: Annotated[
        bool | None, Meta(description="Add a chunk with the usage before `data: [DONE]`.")
    ] = None
    include_obfuscation: Annotated[
        bool | None, Meta(description="Not supported: leave it out, or false.")
    ] = None


class PromptTokensDetails(Output):
    """What the prompt's tokens were."""

    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(Output):
    """What the generated tokens were."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Output):
    """Tokens read and written; the end-of-turn token counts, a prompt counts once for any `n`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Count up. Nothing here is cached, spoken or predicted, so the details are zeros."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0, audio_tokens=0),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=0,
            audio_tokens=0,
            accepted_prediction_tokens=0,
            rejected_prediction_tokens=0,
        ),
    )


def finite(logprob: float) -> float:
    """Make a log-probability that JSON can hold."""
    return max(logprob, UNLIKELIEST)
