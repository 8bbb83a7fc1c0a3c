"""What is to be generated, and how it is fitted into the context. Pure."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from service.errors import BadRequest
from service.rendering.examples import Message
from service.serving.engine import Sampling
from service.serving.shapes import Shape

SHORT_CHARACTERS = 1000
"""They take 0.2 ms; going to a thread and back takes 0.1 of a busy process."""
TURN_CHARACTERS = 50
"""What a turn of a conversation takes besides its text."""


class Conversation(Struct, frozen=True):
    """Turns, for the chat template, and the functions that it shows."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    param = "messages"


class Instruction(Struct, frozen=True):
    """A text that is rendered in the adapter's own format."""

    text: str
    param = "prompt"


class Raw(Struct, frozen=True):
    """Prompts that are taken as they are: texts, or token ids."""

    prompts: list[str | list[int]]
    param = "prompt"


Prompt = Conversation | Instruction | Raw


class Order(Struct, frozen=True, kw_only=True):
    """What is to be generated, before a model and its context bound it.

    `max_tokens_param` names the field that asked for `sampling.max_tokens`; None means that it is
    a default, which may shrink to what the context leaves.
    """

    prompt: Prompt
    sampling: Sampling
    max_tokens_param: str | None
    shape: Shape = Shape()


def is_short(order: Order) -> bool:
    """Tell whether an order is prepared sooner than a thread would begin to."""
    match order.prompt:
        case Conversation(turns, None) if not any(turn.tool_calls for turn in turns):
            lengths = [TURN_CHARACTERS + len(turn.content or "") for turn in turns]
        case Instruction(text):
            lengths = [len(text)]
        case Raw(prompts):
            lengths = [len(prompt) for prompt in prompts]
        case _:
            return False
    return order.shape.param is None and sum(lengths) <= SHORT_CHARACTERS


def bounded(order: Order, prompt_tokens: int, context_length: int) -> Sampling:
    """Fit the wished number of tokens into the context, or refuse with the figures."""
    left = context_length - prompt_tokens
    if left < 1:
        raise prompt_too_long(
            f"the {order.prompt.param} took {prompt_tokens} tokens, which leaves none to generate",
            context_length,
            order.prompt.param,
        )
    wanted = order.sampling.max_tokens
    if order.max_tokens_param is not None and wanted > left:
        raise too_long(
            f"you requested {prompt_tokens + wanted} tokens ({prompt_tokens} in the "
            f"{order.prompt.param}, {wanted} in the completion)",
            context_length,
            order.max_tokens_param,
        )
    if order.sampling.min_tokens > min(wanted, left):
        raise BadRequest(
            f"'min_tokens' is {order.sampling.min_tokens}, but at most {min(wanted, left)} tokens "
            "can be generated.",
            param="min_tokens",
        )
    return replace(order.sampling, max_tokens=min(wanted, left))


def prompt_too_long(what: str, context_length: int, param: str) -> BadRequest:
    """Build the error of what leaves no room for an answer.

    langchain-openai knows by the first sentence, litellm by the second, that less must be sent.
    """
    fault = too_long(what, context_length, param)
    fault.message = f"Input tokens exceed the configured limit. {fault.message}"
    return fault


def too_long(what: str, context_length: int, param: str) -> BadRequest:
    """Build the error of what does not fit, with its figures, as OpenAI words it."""
    return BadRequest(
        f"This model's maximum context length is {context_length} tokens. However, {what}.",
        param=param,
        code="context_length_exceeded",
    )
