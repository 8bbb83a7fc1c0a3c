"""Examples and requests to token ids: one implementation for upload, training and serving.

What makes an adapter answer as it was trained is that the prompt's tokens in training are the
tokens a request gets. So every turn that carries loss is tokenised such that the ids before it
are exactly those of the same prompt in serving.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec
from tokenizers import Tokenizer

from service.base.description import BaseDescription, BaseModelError
from service.rendering.encoding import Encoded, encode
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    PreferenceExample,
    PromptExample,
    TextExample,
)
from service.rendering.template import INSTRUCTION_TEMPLATE, ChatTemplate, RenderingError
from service.rendering.tool_format import MARKS, CallTokens, ToolFormat, tool_format


class Rendered(msgspec.Struct, frozen=True):
    """Token ids, and for each 1 if it carries loss. An all-zero mask teaches nothing."""

    input_ids: list[int]
    loss_mask: list[int]
    truncated: bool


class Renderer:
    """Renders for one base. Safe to share between threads."""

    def __init__(self, base: BaseDescription) -> None:
        self.base = base
        self.tokenizer = _tokenizer(base)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._bos = _bos(base, self.tokenizer)
        self._eos = _eos(base, self.tokenizer)
        # It adds the BOS, which is ours to place, and trims offsets, which are ours to read.
        self.tokenizer.post_processor = None
        self._ends = {*base.eos_token_ids} | ({self._eos} if self._eos is not None else set())
        self._added = frozenset(self.tokenizer.get_added_tokens_decoder())
        self._has_template = base.chat_template is not None
        named = {"eos_token": self._eos_text(), **base.special_tokens}
        self._template = ChatTemplate(base.chat_template or INSTRUCTION_TEMPLATE, named)

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the base calls functions; None if its template knows of none, or of another way."""
        return tool_format(self._template)

    @cached_property
    def call_tokens(self) -> CallTokens:
        """What of the vocabulary stands around calls, and within texts."""
        wanted = () if self.tool_format is None else MARKS[self.tool_format]
        added = self.tokenizer.get_added_tokens_decoder()
        marks = {one.content: token for token, one in added.items() if one.content in wanted}
        others = added.keys() - {*marks.values()} - self._ends
        return CallTokens(marks, sorted(token for token in others if not added[token].special))

    def example(self, example: Example, max_length: int | None) -> Rendered:
        """Render a dataset row; what is over `max_length` is cut off at the right.

        Raises RenderingError when the base's template cannot take the row.
        """
        match example:
            case ChatExample():
                ids, mask = self._chat(example)
            case CompletionExample():
                ids, mask = self._raw(example.prompt, example.completion)
            case TextExample():
                ids, mask = self._raw("", example.text)
            case PreferenceExample() | PromptExample():
                raise RenderingError(f"a {type(example).__name__} is nothing to learn by heart")
        return Rendered(ids[:max_length], mask[:max_length], len(ids) > len(ids[:max_length]))

    def prompt(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """Render a conversation up to where the assistant begins to answer."""
        text = self._template.render(messages, tools, generation_prompt=True)
        starts = self._starts(text, messages, tools)
        return self._opened(self._encode(text, starts.values()).ids)

    def instruction(self, prompt: str) -> list[int]:
        """Render a single user turn."""
        return self.prompt([Message("user", prompt)])

    def raw(self, text: str) -> list[int]:
        """Tokenise plain text, after exactly one BOS where the base uses one."""
        return self._begun(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _chat(self, example: ChatExample) -> tuple[list[int], list[int]]:
        text = self._template.render(example.messages, example.tools, generation_prompt=False)
        starts = self._starts(text, example.messages, example.tools)
        encoded = self._encode(text, starts.values())
        first_tokens = dict(zip(starts, encoded.starts, strict=True))
        mask = [0] * len(encoded.ids)
        for index in _trained(example.messages):
            end = self._end(text, example, index)
            if index not in starts or end is None:
                raise RenderingError(_unstable(index))
            first = first_tokens[index]
            last = self._end_of_turn(encoded, first, end)
            mask[first:last] = [1] * (last - first)
        ids = self._opened(encoded.ids)
        return self._closed(ids, [0] * (len(ids) - len(mask)) + mask, example.messages[-1])

    def _starts(
        self, text: str, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> dict[int, int]:
        """Find where in the text each assistant message begins, as far as it can be told."""
        starts = {}
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = self._template.render(messages[:index], tools, generation_prompt=True)
                if text.startswith(before):
                    starts[index] = len(before)
        return starts

    def _end(self, text: str, example: ChatExample, index: int) -> int | None:
        upto = example.messages[: index + 1]
        after = self._template.render(upto, example.tools, generation_prompt=False)
        return len(after) if text.startswith(after) else None

    def _end_of_turn(self, encoded: Encoded, first: int, end: int) -> int:
        """Find the token after the turn's last trained one, its end-of-turn token."""
        last = first
        while last < len(encoded.ids) and encoded.offsets[last] < end:
            last += 1
        # Serving stops at the end-of-turn token: what a template writes after it is never
        # generated, so it is nothing to learn.
        for index in range(last - 1, first - 1, -1):
            if encoded.ids[index] in self._ends:
                return index + 1
        return last

    def _closed(
        self, ids: list[int], mask: list[int], last: Message
    ) -> tuple[list[int], list[int]]:
        """End a conversation whose template writes no end-of-turn token; it would never stop."""
        trained = last.role == "assistant" and last.weight != 0
        tail = [token for token, bit in zip(ids, mask, strict=True) if bit][-1:]
        if not trained or self._eos is None or (tail and tail[0] in self._ends):
            return ids, mask
        return [*ids, self._eos], [*mask, 1]

    def _raw(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        encoded = self._encode(prompt + completion, [len(prompt)])
        ids = self._begun(encoded.ids)
        # A BOS that the text itself writes is nothing to learn either.
        untrained = max(encoded.starts[0] + len(ids) - len(encoded.ids), self._bos_length(ids))
        if self._eos is not None:
            ids = [*ids, self._eos]
        return ids, [0] * untrained + [1] * (len(ids) - untrained)

    def _begun(self, ids: list[int]) -> list[int]:
        if self._bos is None or self._bos_length(ids):
            return ids
        return [self._bos, *ids]

    def _bos_length(self, ids: list[int]) -> int:
        return int(self._bos is not None and ids[:1] == [self._bos])

    def _encode(self, text: str, boundaries: Iterable[int]) -> Encoded:
        return encode(self.tokenizer, self._added, text, boundaries)

    def _opened(self, ids: list[int]) -> list[int]:
        # A template writes its own BOS, or was made for a base that wants none.
        return ids if self._has_template else self._begun(ids)

    def _eos_text(self) -> str:
        text = None if self._eos is None else self.tokenizer.id_to_token(self._eos)
        return text or ""


def _tokenizer(base: BaseDescription) -> Tokenizer:
    path = base.path / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as fault:  # noqa: BLE001  the library raises no narrower one
        raise BaseModelError(f"{path} cannot be used: {fault}") from None


def _bos(base: BaseDescription, tokenizer: Tokenizer) -> int | None:
    """Decide whether the base begins a text with a BOS: its config says so, or its tokenizer."""
    text = base.special_tokens.get("bos_token")
    token = None if text is None else tokenizer.token_to_id(text)
    wanted = base.tokenizer_config.get("add_bos_token")
    if not isinstance(wanted, bool):
        wanted = token is not None and tokenizer.encode("").ids[:1] == [token]
    return token if wanted else None


def _eos(base: BaseDescription, tokenizer: Tokenizer) -> int | None:
    """Choose the token that ends a raw text: one at which serving stops."""
    text = base.special_tokens.get("eos_token")
    token = None if text is None else tokenizer.token_to_id(text)
    stops = base.eos_token_ids
    if token is None or (stops and token not in stops):
        return stops[0] if stops else None
    return token


def _trained(messages: Sequence[Message]) -> list[int]:
    return [i for i, m in enumerate(messages) if m.role == "assistant" and m.weight != 0]


def _unstable(index: int) -> str:
    return (
        f"the base model's chat template renders the assistant turn messages[{index}] differently "
        "depending on what follows it, so what was trained would not be what is served; "
        "give it weight 0, or split the conversation into one example for each answer"
    )
