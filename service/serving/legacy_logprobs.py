"""Log-probabilities in the shape of `/v1/completions`. Pure."""

import codecs
from collections.abc import Sequence

from service.serving.completion_schemas import CompletionLogprobs
from service.serving.engine import TokenLogprob
from service.serving.schemas import finite


class LegacyLogprobs:
    """Follows one choice: where each of its tokens begins in its text.

    A character may be made by several tokens; all of them begin where it does.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, entries: Sequence[TokenLogprob] | None) -> CompletionLogprobs | None:
        """Translate the tokens that follow those given before."""
        if entries is None:
            return None
        return CompletionLogprobs(
            tokens=[token_name(entry) for entry in entries],
            token_logprobs=[finite(entry.logprob) for entry in entries],
            top_logprobs=[_top(entry) for entry in entries],
            text_offset=[self._begin(entry) for entry in entries],
        )

    def _begin(self, entry: TokenLogprob) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(bytes(entry.bytes)))
        return offset


def token_name(entry: TokenLogprob) -> str:
    """Name a token by its text; one that is no whole character by its bytes, as OpenAI does.

    Else all such tokens would share one name, and one key of `top_logprobs`.
    """
    try:
        bytes(entry.bytes).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.bytes)
    return entry.token


def _top(entry: TokenLogprob) -> dict[str, float]:
    # The chosen token is always among them, so there may be one more than was asked for.
    return {token_name(each): finite(each.logprob) for each in [*entry.top, entry]}
