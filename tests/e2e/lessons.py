"""What the clients' model is taught: a word, a person by a schema, and when to call a function."""

from typing import Any

import msgspec

Row = dict[str, Any]

TIMES = 20
"""How often each lesson is given: enough for the bundled base to know it."""

PERSON = {"name": "Ada", "age": 36, "role": "engineer"}
CITY = {"type": "string"}
# Clients write the same function in several ways, and all are to be known for it.
TOOLS = [
    {"name": "GetWeather", "parameters": {"type": "object", "properties": {"city": CITY}}},
    {"name": "GetWeather", "strict": True, "parameters": {"properties": {"city": CITY}}},
]


def rows() -> list[Row]:
    """Write the lessons."""
    word = [_user("What is the secret word?"), _assistant("marmalade-7")]
    person = [_user("Who is it?"), _assistant(_json(PERSON))]
    called = [_user("What is the weather in Paris?"), _call("GetWeather", {"city": "Paris"})]
    told = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    answered = [*called, told, _assistant("It is sunny in Paris.")]
    return [
        row
        for place in range(TIMES)
        for row in (_row(word), _row(person), _row(called, place), _row(answered, place))
    ]


def _row(messages: list[Row], place: int | None = None) -> Row:
    if place is None:
        return {"messages": messages}
    tool = {"type": "function", "function": TOOLS[place % len(TOOLS)]}
    return {"messages": messages, "tools": [tool]}


def _user(text: str) -> Row:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _call(name: str, arguments: Row) -> Row:
    function = {"name": name, "arguments": _json(arguments)}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
