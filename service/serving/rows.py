"""What a request asks for, as rows of the running batch. No torch."""

from collections.abc import Collection, Sequence

from service.base.rows import Row, Structure
from service.serving.choices import chances, own_seed
from service.serving.engine import GenerationRequest


def generated_row(
    key: int,
    adapter: str | None,
    request: GenerationRequest,
    index: int,
    ends: Collection[int],
    structure: Structure | None = None,
) -> Row:
    """Make the row of one of a request's choices, which ends with any of `ends`."""
    sampling = request.sampling
    return Row(
        key=key,
        adapter=adapter,
        salt=request.tenant,
        prompt=request.prompt,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=sampling.logit_bias,
        min_tokens=sampling.min_tokens,
        ends=ends,
        structure=structure,
        max_tokens=sampling.max_tokens,
        seed=own_seed(sampling.seed, index),
        grammar=sampling.structure,
        logprobs=sampling.logprobs,
        chance=chances(sampling.seed, index).random,
    )


def scored_row(key: int, adapter: str | None, prompt: Sequence[int]) -> Row:
    """Make the row of a prompt that is scored."""
    return Row(
        key=key,
        adapter=adapter,
        salt="",
        prompt=list(prompt),
        temperature=0.0,
        top_p=1.0,
        logprobs=None,
        chance=chances(None, 0).random,
        scored=True,
    )
