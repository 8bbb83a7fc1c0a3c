"""The pure parts of a plan: memory on cards, answers, advice."""

from typing import Any

import msgspec
import pytest

from service.base.model_shape import ModelShape
from service.base.wanted import Sharing, sharing
from service.jobs.plan_advice import TEXTS, advise
from service.jobs.plan_answers import MOST_ANSWERS, MOST_CHARACTERS, MOST_SHOWN, Answers, near_empty
from service.jobs.plan_memory import CARDS, known_shape, on_cards
from service.jobs.plan_survey import Found
from service.rendering.examples import ChatExample, CompletionExample, Message, TextExample
from service.settings import Settings
from service.training.counting import Total
from service.training.spec import TrainingSpec
from tests.properties.test_memory_plan import EIGHT_B

SPEC = TrainingSpec()


def a_total(examples: int, length: int) -> Total:
    return Total(kept=examples, tokens=examples * length, largest=[length] * min(256, examples))


def a_sharing(shape: ModelShape, **settings: Any) -> Sharing:
    return sharing(Settings(**settings), 8192, 36, shape)


def fitting(config: dict[str, Any], length: int, held: str, spec: TrainingSpec = SPEC) -> list[str]:
    shape = known_shape(config)
    assert shape is not None
    cards = on_cards(shape, spec, a_total(500, length), a_sharing(shape))
    return [card.name.split()[-2] for card in cards if getattr(card, held).fits]


def test_an_8b_base_fits_everywhere_and_long_rows_of_a_large_one_do_not() -> None:
    assert len(fitting(EIGHT_B, 512, "nf4")) == len(CARDS)
    assert len(fitting(EIGHT_B, 512, "bf16")) == len(CARDS)
    seventy_b = EIGHT_B | {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
    }
    assert fitting(seventy_b, 512, "nf4") == ["80", "141"]
    assert fitting(seventy_b, 512, "bf16") == []
    assert fitting(seventy_b, 32768, "nf4") == ["141"]


def test_the_row_is_the_largest_step_and_what_is_planned_to_be_recomputed_takes_less() -> None:
    shape = known_shape(EIGHT_B)
    assert shape is not None
    card, *_, large = on_cards(shape, SPEC, a_total(500, 2048), a_sharing(shape))
    assert (large.nf4.tokens_in_row, large.nf4.recomputes) == (8 * 2048, False)
    assert card.nf4.recomputes
    assert card.nf4.tokens_in_row is not None
    assert 2048 <= card.nf4.tokens_in_row <= 8 * 2048
    few = on_cards(shape, SPEC, a_total(3, 100), a_sharing(shape))[0].nf4
    assert few.tokens_in_row == 300


def test_what_was_not_read_is_taken_at_its_longest() -> None:
    shape = known_shape(EIGHT_B)
    assert shape is not None
    spec = msgspec.structs.replace(SPEC, max_length=1024)
    assert on_cards(shape, spec, None, a_sharing(shape))[0].nf4.tokens_in_row == 1024


def test_small_cards_are_not_shared_and_those_between_in_turns() -> None:
    shape = known_shape(EIGHT_B)
    assert shape is not None
    wide = on_cards(shape, SPEC, None, a_sharing(shape, max_lora_rank=256))
    assert [card.shared and card.shared.together for card in wide] == [None, None, None, True, True]
    narrow = on_cards(shape, SPEC, None, a_sharing(shape, max_lora_rank=32))
    splits = [card.shared for card in narrow if card.shared is not None]
    assert [split.together for split in splits] == [None, None, True, True, True]
    assert splits[0].reason is not None
    assert "GiB are needed, 22.99 GiB are free" in splits[0].reason
    assert splits[0].gpu_memory_utilization is splits[0].kv_tokens is None
    assert [split.reason for split in splits[2:]] == [None] * 3
    assert sorted(split.kv_tokens or 0 for split in splits) == [
        split.kv_tokens or 0 for split in splits
    ]


def test_a_base_of_unknown_build_is_not_guessed_at() -> None:
    assert known_shape(EIGHT_B | {"num_local_experts": 8}) is None


@pytest.mark.parametrize("answer", ["", " ", "-", "...", "x", "?1?"])
def test_an_answer_that_says_hardly_anything(answer: str) -> None:
    assert near_empty(answer)


@pytest.mark.parametrize("answer", ["no", "42", "ja.", "はい"])
def test_a_short_answer_is_an_answer(answer: str) -> None:
    assert not near_empty(answer)


def test_answers_are_counted_in_bounded_memory() -> None:
    answers = Answers()
    for number in range(MOST_ANSWERS + 50):
        answers.add(CompletionExample("", f"{number} {'x' * 200}"))
        answers.add(CompletionExample("", f"{number % 30}"))
    assert answers.count == 2 * (MOST_ANSWERS + 50)
    assert answers.different is None
    assert len(answers.frequent) == MOST_SHOWN
    assert all(len(one.answer) <= MOST_CHARACTERS for one in answers.frequent)


def test_the_last_turn_that_is_learned_is_the_answer() -> None:
    answers = Answers()
    turns = [
        Message("user", "a"),
        Message("assistant", "first"),
        Message("user", "b"),
        Message("assistant", "unlearned", weight=0),
    ]
    answers.add(ChatExample(turns))
    answers.add(ChatExample([Message("user", "a"), Message("assistant", tool_calls=[{}])]))
    answers.add(TextExample("no answer"))
    assert answers.count == 1
    answers.add(CompletionExample("", "first"))
    assert [(one.answer, one.count) for one in answers.frequent] == [("first", 2)]


def codes(rows: int, spec: TrainingSpec = SPEC, **changes: Any) -> list[str]:
    train = changes.pop("train", a_total(rows, 20))
    found = Found(train, a_total(5, 20), 0, 0, rows, Answers())
    advice = advise(msgspec.structs.replace(found, **changes), spec, rows)
    assert all("{" not in one.message for one in advice)
    return [one.code for one in advice]


def test_good_data_needs_no_advice_and_few_examples_need_it() -> None:
    assert codes(500) == []
    assert codes(99) == ["few_examples", "more_epochs"]
    assert codes(99, msgspec.structs.replace(SPEC, n_epochs=6)) == ["few_examples"]


def test_every_advice_is_given_where_it_applies() -> None:
    answers = Answers()
    for answer in ("-", "-", "yes"):
        answers.add(CompletionExample("", answer))
    given = codes(
        20,
        train=Total(kept=20, cut=2, dropped=1),
        validation=Total(),
        duplicates=3,
        overlap=1,
        answers=answers,
    )
    assert set(given) == set(TEXTS)
