"""What every engine refuses in the same words. Pure."""

from service.errors import BadRequest
from service.serving.engine import GenerationRequest


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
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise BadRequest("temperature or top_p is out of range", param="temperature")
