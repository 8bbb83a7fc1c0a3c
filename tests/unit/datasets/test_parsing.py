"""Every way in which a line can be wrong, and the sentence that says so."""

import json
from typing import Any

import pytest

from service.datasets.parsing import MAX_FAULTS, MAX_LINE_BYTES, Fault, Faults, Row, parse
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Message,
    PreferenceExample,
    PromptExample,
    TextExample,
)

ASK, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
GOOD = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}'


WORSE = {"role": "assistant", "content": "no"}
PREFERENCE: dict[str, Any] = {
    "input": {"messages": [ASK]},
    "preferred_output": [ANSWER],
    "non_preferred_output": [WORSE],
}


def one(line: bytes | dict[str, Any]) -> Row | Fault:
    given = line if isinstance(line, bytes) else json.dumps(line).encode()
    [found] = parse([given])
    return found


def reason(line: bytes | dict[str, Any]) -> str:
    found = one(line)
    assert isinstance(found, Fault), found
    return found.reason


def answered(**answer: Any) -> dict[str, Any]:
    return {"messages": [ASK, {**ANSWER, **answer}]}


def example(line: dict[str, Any]) -> object:
    found = one(line)
    assert isinstance(found, Row), found
    return found.example


class TestGoodRows:
    def test_messages(self) -> None:
        assert example({"messages": [ASK, {**ANSWER, "weight": 1}]}) == ChatExample(
            [Message("user", "hi"), Message("assistant", "hello", weight=1)]
        )

    def test_prompt_and_completion(self) -> None:
        assert example({"prompt": "", "completion": " x"}) == CompletionExample("", " x")

    def test_text(self) -> None:
        assert example({"text": "x"}) == TextExample("x")

    def test_an_instruction_is_a_conversation(self) -> None:
        row = {"instruction": "Add", "input": "1 2", "output": "3"}
        asked, answer = Message("user", "Add\n\n1 2"), Message("assistant", "3")
        assert example(row) == ChatExample([asked, answer])
        without = {"instruction": "Add", "input": "", "output": "3"}
        assert example(without) == ChatExample([Message("user", "Add"), answer])

    def test_a_preference_is_of_two_conversations_that_end_differently(self) -> None:
        asked = [Message("user", "hi"), Message("assistant", "hello", weight=0)]
        again = Message("user", "and?")
        row = {**PREFERENCE, "input": {"messages": [ASK, ANSWER, {**ASK, "content": "and?"}]}}
        # What was answered before is read, and not compared.
        assert example(row) == PreferenceExample(
            ChatExample([*asked, again, Message("assistant", "hello")]),
            ChatExample([*asked, again, Message("assistant", "no")]),
        )

    def test_a_preference_may_have_tools(self) -> None:
        given = {"messages": [ASK], "tools": [{"type": "function"}], "parallel_tool_calls": True}
        found = example({**PREFERENCE, "input": given})
        assert isinstance(found, PreferenceExample)
        assert isinstance(found.other, ChatExample)
        assert found.other.tools == [{"type": "function"}]

    def test_a_preference_of_plain_text(self) -> None:
        assert example({"prompt": "", "chosen": "y", "rejected": "z"}) == PreferenceExample(
            CompletionExample("", "y"), CompletionExample("", "z")
        )

    def test_messages_that_wait_for_an_answer_carry_what_a_grader_may_know(self) -> None:
        row = {"messages": [ASK], "tools": [{"type": "function"}], "answer": {"n": [1]}}
        assert example(row) == PromptExample(
            [Message("user", "hi")], [{"type": "function"}], {"answer": {"n": [1]}}
        )
        assert example({"messages": [ASK, ANSWER, ASK]}) == PromptExample(
            [Message("user", "hi"), Message("assistant", "hello"), Message("user", "hi")], None, {}
        )

    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
        assert example(answered(content=parts)) == example(answered())

    def test_what_openai_writes_out_empty_is_passed_over(self) -> None:
        assert example(answered(refusal=None, annotations=[])) == example(answered())

    def test_an_answer_may_call_tools_without_words(self) -> None:
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        row = answered(content=None, tool_calls=calls)
        found = example({**row, "tools": [{"type": "function"}]})
        assert isinstance(found, ChatExample)
        assert found.messages[1].tool_calls == calls
        assert found.tools == [{"type": "function"}]

    def test_blank_lines_and_carriage_returns_are_passed_over(self) -> None:
        found = list(parse([GOOD + b"\r", b"", b"  \r", GOOD]))
        assert [(type(row), row.line) for row in found] == [(Row, 1), (Row, 4)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not valid JSON"),
        (b"{'text': 'x'}", "not valid JSON"),
        (b'{"text": NaN}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["text"]', "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"3", "not a JSON object"),
        (b'{"text": "\xff"}', "not UTF-8 (at byte 11)"),
        (b'\xef\xbb\xbf{"text": "x"}', "byte order mark"),
        (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}', f"longer than {MAX_LINE_BYTES} bytes"),
        ({}, "unknown row shape with no keys"),
        ({"question": "x", "answer": "y"}, 'unknown row shape with the keys "question", "answer"'),
        ({**PREFERENCE, "input": [ASK]}, '"input" must be an object with "messages"'),
        ({**PREFERENCE, "input": {"messages": []}}, '"input.messages" must be a list of at least'),
        ({**PREFERENCE, "input": {"messages": [ASK, ANSWER]}}, "input.messages ends with an ans"),
        ({**PREFERENCE, "input": {"messages": [ASK], "n": 1}}, 'unknown key "n" in input'),
        ({**PREFERENCE, "preferred_output": []}, '"preferred_output" must be a list'),
        ({**PREFERENCE, "preferred_output": [ASK]}, "preferred_output must end with a message of"),
        ({**PREFERENCE, "preferred_output": [{**ANSWER, "weight": 0}]}, "has a message of weight"),
        ({**PREFERENCE, "preferred_output": [WORSE]}, "both answers are the same"),
        ({**PREFERENCE, "id": 1}, 'unknown key "id" in the row'),
        ({"preferred_output": [ANSWER]}, '"input" must be an object'),
        ({"input": {"messages": [ASK]}, "preferred_output": [ANSWER]}, '"non_preferred_output" is'),
        ({"prompt": "x", "chosen": "y"}, '"rejected" is missing'),
        ({"chosen": "y", "rejected": "z"}, '"prompt" is missing'),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "both answers are the same"),
        ({"prompt": "x", "chosen": [ANSWER], "rejected": [WORSE]}, '"chosen" must be a string'),
        ({"prompt": "x", "completion": "y", "chosen": "z"}, 'unknown key "completion" in the row'),
        ({"prompt": "x"}, '"completion" is missing'),
        ({"completion": "x"}, '"prompt" is missing'),
        ({"prompt": "x", "completion": ""}, '"completion" is empty'),
        ({"prompt": ["x"], "completion": "y"}, '"prompt" must be a string'),
        ({"prompt": "x", "completion": "y", "id": 3}, 'unknown key "id" in the row'),
        ({"instruction": "x"}, '"output" is missing'),
        ({"instruction": " ", "output": "x"}, '"instruction" is empty'),
        ({"instruction": "x", "input": 3, "output": "x"}, '"input" must be a string'),
        ({"text": ""}, '"text" is empty'),
        ({"text": None}, '"text" must be a string'),
        ({"text": "x", "messages": []}, 'unknown key "text" in the row'),
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "must be a list"),
        ({"messages": ["hi"]}, "messages[0] must be an object"),
        ({"messages": [{**ASK, "role": "system"}]}, "no message has the role assistant"),
        ({"messages": ["hi", ASK]}, "messages[0] must be an object"),
        ({"messages": [ASK], "tools": 3}, '"tools" must be a list of objects'),
        ({"messages": [{"content": "x"}]}, "messages[0].role must be one of system"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user"}, ANSWER]}, "messages[0].content must be a string"),
        ({"messages": [{**ASK, "weight": 1}, ANSWER]}, "only assistant messages have a weight"),
        ({"messages": [{**ASK, "tool_calls": [{}]}, ANSWER]}, "only assistant messages call"),
        (answered(content=""), "messages[1].content is empty"),
        (answered(content=" \n"), "messages[1].content is empty"),
        (answered(content=None), "messages[1].content must be a string"),
        (answered(content=3), "messages[1].content must be a string"),
        (answered(content=[{"type": "image_url"}]), "messages[1].content[0] is not a text part"),
        (answered(content=[{"type": "text"}]), "messages[1].content[0].text must be a string"),
        (answered(weight=2), "messages[1].weight must be 0 or 1"),
        (answered(weight=True), "messages[1].weight must be 0 or 1"),
        (answered(weight=0), "every assistant message has weight 0"),
        (answered(thoughts="x"), 'unknown key "thoughts" in messages[1]'),
        (answered(refusal="no"), 'unknown key "refusal" in messages[1]'),
        (answered(name=3), "messages[1].name must be a string"),
        (answered(tool_calls="f"), "messages[1].tool_calls must be a list"),
        (answered(tool_calls=[{"function": {"name": "f"}}]), "messages[1].tool_calls must be"),
        ({**answered(), "tools": {}}, '"tools" must be a list'),
        ({**answered(), "functions": []}, 'unknown key "functions" in the row'),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: bytes | dict[str, Any], words: str) -> None:
    assert words in reason(line)


def test_a_file_without_rows_is_at_fault_in_line_1() -> None:
    for lines in ([], [b""], [b"", b"  "]):
        [fault] = parse(lines)
        assert isinstance(fault, Fault)
        assert (fault.line, "empty" in fault.reason) == (1, True)


def test_rows_of_two_shapes_are_at_fault_and_both_are_named() -> None:
    good, fault, also_good = parse([b"nonsense", b'{"text": "x"}', GOOD, b'{"text": "y"}'][1:])
    assert isinstance(good, Row)
    assert isinstance(fault, Fault)
    assert fault.line == 2
    assert "messages shape" in fault.reason
    assert "text shape in line 1" in fault.reason
    assert isinstance(also_good, Row)


def test_the_first_faults_are_kept_and_all_are_counted() -> None:
    faults = Faults()
    for line in range(1, 251):
        faults.add(Fault(line, "bad"))
    assert faults.count == 250
    assert [fault.line for fault in faults.first] == list(range(1, MAX_FAULTS + 1))
