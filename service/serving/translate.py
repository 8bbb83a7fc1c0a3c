"""From a request on the wire to an order. Pure; each fault names its field."""

from service.errors import BadRequest, UnsupportedField
from service.serving import refusals
from service.serving.chat_schemas import ChatRequest
from service.serving.completion_schemas import MOST_PROMPTS, CompletionRequest
from service.serving.conversation import conversation
from service.serving.engine import Sampling
from service.serving.generate_schemas import GenerateRequest
from service.serving.orders import Conversation, Instruction, Order, Prompt, Raw
from service.serving.schemas import SamplingFields, StreamOptions
from service.serving.wishes import shape_of, tools_of

COMPLETION_MAX_TOKENS = 16
GENERATE_MAX_TOKENS = 256
COLDEST = 1e-4
"""Below this temperature, dividing by it overflows before it changes which token is likeliest."""


def chat_order(body: ChatRequest, context_length: int) -> Order:
    """Read a chat request; by default the answer may fill the context."""
    refusals.refuse(body, refusals.CHAT)
    asked, param = _chat_max_tokens(body)
    return Order(
        prompt=Conversation(conversation(body.messages), tools_of(body)),
        sampling=_sampling(
            body, max_tokens=asked or context_length, n=body.n or 1, logprobs=_chat_logprobs(body)
        ),
        max_tokens_param=param,
        shape=shape_of(body),
    )


def completion_order(body: CompletionRequest) -> Order:
    """Read a completion request."""
    refusals.refuse(body, refusals.COMPLETION)
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise UnsupportedField("'best_of' is supported only when equal to 'n'.", param="best_of")
    return Order(
        prompt=Raw(_prompts(body.prompt)),
        sampling=_sampling(
            body,
            max_tokens=body.max_tokens or COMPLETION_MAX_TOKENS,
            n=n,
            logprobs=body.logprobs,
        ),
        max_tokens_param=None if body.max_tokens is None else "max_tokens",
    )


def generate_order(body: GenerateRequest) -> Order:
    """Read a request of the house's own endpoint."""
    return Order(
        prompt=_either(body),
        sampling=_sampling(body, max_tokens=body.max_tokens or GENERATE_MAX_TOKENS),
        max_tokens_param=None if body.max_tokens is None else "max_tokens",
    )


def sticky_key(body: SamplingFields) -> str | None:
    """Read what ties a client's requests to one of a canary's revisions."""
    return body.prompt_cache_key or body.user or None


def wants_usage(stream: bool | None, options: StreamOptions | None) -> bool:
    """Tell whether a stream ends with its usage; options without a stream are refused."""
    if options is None:
        return False
    if not stream:
        raise BadRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    refusals.refuse(options, refusals.STREAM_OPTIONS, "stream_options")
    return bool(options.include_usage)


def _sampling(
    body: SamplingFields, *, max_tokens: int, n: int = 1, logprobs: int | None = None
) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=_temperature(body.temperature),
        top_p=_or_one(body.top_p),
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_or_one(body.repetition_penalty),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        n=n,
        seed=body.seed,
        stop=_stop(body.stop),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
    )


def _prompts(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Tell the four shapes of `prompt` apart; the wire cannot, as all lists look alike there."""
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    prompts = [item for item in given if not isinstance(item, int)]
    if len(prompts) < len(given) or len({type(item) for item in prompts}) > 1:
        raise BadRequest("It mixes texts, tokens or lists of tokens.", param="prompt")
    if len(prompts) > MOST_PROMPTS:
        raise BadRequest(f"At most {MOST_PROMPTS} prompts in one request.", param="prompt")
    return prompts


def _either(body: GenerateRequest) -> Prompt:
    if body.prompt is not None and body.messages is not None:
        raise BadRequest("Give 'prompt' or 'messages', not both.", param="messages")
    if body.prompt is not None:
        return Instruction(body.prompt)
    if body.messages is not None:
        return Conversation(conversation(body.messages))
    raise BadRequest(
        "Give 'prompt' or 'messages'.", param="prompt", code="missing_required_parameter"
    )


def _chat_max_tokens(body: ChatRequest) -> tuple[int | None, str | None]:
    new, old = body.max_completion_tokens, body.max_tokens
    if new is not None and old is not None and new != old:
        raise BadRequest(
            f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) name the same limit.",
            param="max_tokens",
        )
    if new is not None:
        return new, "max_completion_tokens"
    return old, None if old is None else "max_tokens"


def _chat_logprobs(body: ChatRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs is not None:
        raise BadRequest("'top_logprobs' needs 'logprobs: true'.", param="top_logprobs")
    return None


def _temperature(given: float | None) -> float:
    temperature = _or_one(given)
    return temperature if temperature >= COLDEST else 0.0


def _or_one(given: float | None) -> float:
    return 1.0 if given is None else given


def _stop(given: str | list[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)
