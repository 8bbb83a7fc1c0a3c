"""What is worth a thought before training, in a few sentences. Pure."""

from collections.abc import Iterator

from service.jobs.plan_schemas import Advice
from service.jobs.plan_survey import Found
from service.jobs.resolve import EPOCHS, FEW_EXAMPLES, epochs
from service.training.spec import TrainingSpec

UNBALANCED = 0.5
"""The share of one answer that a model may take for the answer to everything."""


def advise(found: Found, spec: TrainingSpec, rows: int) -> list[Advice]:
    """Give all that applies."""
    return [
        Advice(code=code, message=message)
        for code, message in (*_few(found, spec, rows), *_held_out(found), *_data(found, spec))
    ]


def _few(found: Found, spec: TrainingSpec, rows: int) -> Iterator[tuple[str, str]]:
    if rows >= FEW_EXAMPLES:
        return
    yield (
        "few_examples",
        f"There are {rows} examples, and {FEW_EXAMPLES} or more are advised: try them in the prompt "
        "(few-shot), or retrieval, before you train.",
    )
    if spec.n_epochs <= EPOCHS:
        wanted = epochs(rows)
        yield (
            "more_epochs",
            f"So few examples are learned from in more epochs than {spec.n_epochs}: `auto` would "
            f"take {wanted}.",
        )


def _held_out(found: Found) -> Iterator[tuple[str, str]]:
    if not found.validation.kept:
        yield (
            "nothing_held_out",
            "No example is held out, so nobody will see whether it learns or memorises: give a "
            "`validation_file`, or a `validation_split`.",
        )
    if found.overlap:
        yield (
            "overlap",
            f"{_rows(found.overlap)} held out, but also trained on: the validation loss will look "
            "better than it is.",
        )


def _data(found: Found, spec: TrainingSpec) -> Iterator[tuple[str, str]]:
    if found.duplicates:
        yield "duplicates", f"{_rows(found.duplicates)} there already: they count the more for it."
    if cut := found.train.cut + found.validation.cut:
        yield (
            "truncated",
            f"{_rows(cut)} longer than {spec.max_length} tokens, and lose their end, which is "
            "where answers are: raise `max_length`, or shorten them.",
        )
    if dropped := found.train.dropped + found.validation.dropped:
        yield "dropped", f"{_rows(dropped)} left out: nothing to learn lies within `max_length`."
    if near_empty := found.answers.near_empty:
        yield "near_empty_answers", f"{_rows(near_empty)} answered with hardly anything."
    frequent = found.answers.frequent
    if frequent and frequent[0].count > UNBALANCED * found.answers.count:
        share = frequent[0].count / found.answers.count
        yield "unbalanced", f"One answer is {share:.0%} of all: it may become the answer to all."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"
