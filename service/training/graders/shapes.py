"""Graders as OpenAI writes them; kept in the job and its spec as they came."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Template = Annotated[
    str,
    Meta(
        max_length=10_000,
        description="Text, in which `{{ sample.output_text }}` stands for the answer and "
        "`{{ item.field }}` for a field of the row.",
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=100)]


class StringCheckGrader(
    msgspec.Struct, frozen=True, tag="string_check", forbid_unknown_fields=True
):
    """Scores 1 or 0: equal, not equal, `input` contains `reference` (`ilike`: in any case)."""

    name: Name
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarityGrader(
    msgspec.Struct, frozen=True, tag="text_similarity", forbid_unknown_fields=True
):
    """Scores from 0 to 1 how alike two texts are. `cosine` and `meteor` are refused."""

    name: Name
    input: Template
    reference: Template
    evaluation_metric: Literal[
        "fuzzy_match",
        "bleu",
        "gleu",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
        "cosine",
        "meteor",
    ]


class PythonGrader(msgspec.Struct, frozen=True, tag="python"):
    """Refused: it would run a tenant's code."""


class ScoreModelGrader(msgspec.Struct, frozen=True, tag="score_model"):
    """Refused: there is no second model to ask."""


class LabelModelGrader(msgspec.Struct, frozen=True, tag="label_model"):
    """Refused: there is no second model to ask."""


Simple = (
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader
)


class MultiGrader(msgspec.Struct, frozen=True, tag="multi", forbid_unknown_fields=True):
    """Scores by a formula over other graders."""

    name: Name
    graders: Annotated[dict[str, Simple], Meta(min_length=1, max_length=16)]
    calculate_output: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1000,
            description="Arithmetic over the names in `graders`: `+ - * / ^` and min, max, abs, "
            "floor, ceil, exp, sqrt, log. Where it has no value, the answer scores 0.",
        ),
    ]


Grader = Simple | MultiGrader

Item = dict[str, Any]
"""The fields of a row besides its messages."""
