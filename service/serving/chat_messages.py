"""An answer's text as OpenAI's messages and deltas, with the calls that are in it. Pure."""

from collections.abc import Iterable

from msgspec import UNSET

from service.serving.call_events import Argued, Called, Event, Reading, Said
from service.serving.chat_schemas import (
    AssistantMessage,
    CalledFunction,
    ChatFinishReason,
    Delta,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from service.serving.schemas import FinishReason
from service.wire import new_id


class Speech:
    """One choice of a stream; `reading` makes what reads its calls, if it may call anything."""

    def __init__(self, reading: Reading | None) -> None:
        self._reader = None if reading is None else reading()
        self._calls = False

    def begin(self) -> Delta:
        """Say who speaks; what may be a call has no text until there is some."""
        return Delta(role="assistant", content=None if self._reader else "", refusal=None)

    def add(self, text: str, *, last: bool) -> list[Delta]:
        """Take more of the text; give what is certain by it."""
        if self._reader is None:
            return [Delta(content=text)] if text else []
        events = self._reader.add(text) + (self._reader.end() if last else [])
        return [self._delta(event) for event in events]

    def reason(self, reason: FinishReason) -> ChatFinishReason:
        """Say why it ended."""
        return _reason(reason, called=self._calls)

    def _delta(self, event: Event) -> Delta:
        match event:
            case Said(text):
                return Delta(content=text)
            case Called(index, name):
                self._calls = True
                function = FunctionDelta(name=name, arguments="")
                call = ToolCallDelta(index, id=_new_id(), type="function", function=function)
            case Argued(index, arguments):
                call = ToolCallDelta(index, function=FunctionDelta(arguments=arguments))
        return Delta(tool_calls=[call])


def message(
    text: str, reason: FinishReason, reading: Reading | None
) -> tuple[AssistantMessage, ChatFinishReason]:
    """Put a whole answer together, and say why it ended."""
    calls: list[ToolCall] = []
    if reading is not None:
        reader = reading()
        text = _read(reader.add(text) + reader.end(), calls)
    made = AssistantMessage(
        role="assistant",
        content=None if calls and not text else text,
        refusal=None,
        tool_calls=calls or UNSET,
    )
    return made, _reason(reason, called=bool(calls))


def _read(events: Iterable[Event], calls: list[ToolCall]) -> str:
    """Collect the calls; give the text."""
    text = ""
    for event in events:
        match event:
            case Said(said):
                text += said
            case Called(_, name):
                function = CalledFunction(name=name, arguments="")
                calls.append(ToolCall(id=_new_id(), type="function", function=function))
            case Argued(index, arguments):
                calls[index].function.arguments += arguments
    return text


def _reason(reason: FinishReason, *, called: bool) -> ChatFinishReason:
    # What was cut may be half a call.
    return "tool_calls" if called and reason == "stop" else reason


def _new_id() -> str:
    return new_id("call_")
