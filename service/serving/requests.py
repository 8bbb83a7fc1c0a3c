"""What every engine refuses in the same words. Pure."""

from collections.abc import Sequence
from math import inf, isfinite

from service.errors import BadRequest
from service.serving.engine import GenerationRequest, Sampling


def check_request(request: GenerationRequest, context_length: int, vocabulary: int) -> None:
    """Raise BadRequest for what no engine can run.

    Callers check it in their own fields' names before; this keeps the engine safe from a caller
    who forgot.
    """
    sampling = request.sampling
    if not request.prompt:
        raise BadRequest("the prompt is empty", param="prompt")
    if any(not 0 <= token < vocabulary for token in request.prompt):
        raise BadRequest("the prompt holds unknown tokens", param="prompt")
    if sampling.max_tokens < 1 or sampling.n < 1:
        raise BadRequest("max_tokens and n must be at least 1", param="max_tokens")
    if len(request.prompt) + sampling.max_tokens > context_length:
        raise BadRequest(
            f"prompt ({len(request.prompt)}) and max_tokens ({sampling.max_tokens}) exceed "
            f"the context of {context_length} tokens",
            param="max_tokens",
            code="context_length_exceeded",
        )
    check_tokens(sampling, vocabulary)
    for field, fine in _bounds(sampling).items():
        if not fine:
            raise BadRequest(f"{field} is out of range", param=field)


def check_prompts(prompts: Sequence[Sequence[int]], context_length: int, vocabulary: int) -> None:
    """Raise BadRequest for what no engine can score."""
    if not prompts or any(len(prompt) < 2 for prompt in prompts):
        raise BadRequest("a prompt to score has two tokens or more", param="prompts")
    if any(not 0 <= token < vocabulary for prompt in prompts for token in prompt):
        raise BadRequest("a prompt holds unknown tokens", param="prompts")
    if (longest := max(map(len, prompts))) > context_length:
        raise BadRequest(
            f"a prompt of {longest} tokens exceeds the {context_length} that there is room for",
            param="prompts",
            code="context_length_exceeded",
        )


def check_tokens(sampling: Sampling, vocabulary: int) -> None:
    """Raise BadRequest for token ids that are not in the vocabulary."""
    for field in ("logit_bias", "stop_token_ids"):
        for token in getattr(sampling, field):
            if not 0 <= token < vocabulary:
                raise BadRequest(f"'{field}' names an unknown token: {token}.", param=field)


def _bounds(sampling: Sampling) -> dict[str, bool]:
    return {
        "temperature": 0 <= sampling.temperature < inf,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
        "presence_penalty": isfinite(sampling.presence_penalty),
        "frequency_penalty": isfinite(sampling.frequency_penalty),
        "repetition_penalty": 0 < sampling.repetition_penalty < inf,
        "logit_bias": all(map(isfinite, sampling.logit_bias.values())),
        "min_tokens": 0 <= sampling.min_tokens <= sampling.max_tokens,
    }
