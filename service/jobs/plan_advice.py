"""What is worth a thought before training, in a few sentences. Pure."""

from collections.abc import Iterator

from service.jobs.plan_schemas import Advice
from service.jobs.plan_survey import Found
from service.jobs.resolve import EPOCHS, FEW_EXAMPLES, epochs
from service.training.spec import TrainingSpec

UNBALANCED = 0.5
"""The share of one answer that a model may take for the answer to everything."""

TEXTS = {
    "few_examples": "There are {rows} examples, and {advised} or more are advised: try them in the "
    "prompt (few-shot), or retrieval, before you train.",
    "more_epochs": "So few examples are learned from in more epochs than {n_epochs}: `auto` would "
    "take {epochs}.",
    "nothing_held_out": "No example is held out, so nobody will see whether it learns or "
    "memorises: give a `validation_file`, or a `validation_split`.",
    "overlap": "Held out, but also trained on: {count}. The validation loss will look better than "
    "it is.",
    "duplicates": "Rows that are there already: {count}. They count the more for it.",
    "truncated": "Rows longer than {max_length} tokens: {count}. They lose their end, which is "
    "where answers are: raise `max_length`, or shorten them.",
    "dropped": "Rows left out, because nothing to learn lies within {max_length} tokens: {count}.",
    "near_empty_answers": "Answers that say hardly anything: {count}.",
    "unbalanced": "One answer is {share:.0%} of all: it may become the answer to everything.",
}
"""By code."""


def advise(found: Found, spec: TrainingSpec, rows: int) -> list[Advice]:
    """Give all that applies."""
    return [*_few(spec, rows), *_held_out(found), *_data(found, spec)]


def _few(spec: TrainingSpec, rows: int) -> Iterator[Advice]:
    if rows >= FEW_EXAMPLES:
        return
    yield _advice("few_examples", rows=rows, advised=FEW_EXAMPLES)
    if spec.n_epochs <= EPOCHS:
        yield _advice("more_epochs", n_epochs=spec.n_epochs, epochs=epochs(rows))


def _held_out(found: Found) -> Iterator[Advice]:
    if not found.validation.kept:
        yield _advice("nothing_held_out")
    if found.overlap:
        yield _advice("overlap", count=found.overlap)


def _data(found: Found, spec: TrainingSpec) -> Iterator[Advice]:
    counts = {
        "duplicates": found.duplicates,
        "truncated": found.train.cut + found.validation.cut,
        "dropped": found.train.dropped + found.validation.dropped,
        "near_empty_answers": found.answers.near_empty,
    }
    for code, count in counts.items():
        if count:
            yield _advice(code, count=count, max_length=spec.max_length)
    frequent, answers = found.answers.frequent, found.answers.count
    if frequent and frequent[0].count > UNBALANCED * answers:
        yield _advice("unbalanced", share=frequent[0].count / answers)


def _advice(code: str, **figures: float) -> Advice:
    return Advice(code=code, message=TEXTS[code].format(**figures))
