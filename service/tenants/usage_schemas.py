"""Usage on the wire: OpenAI's pages of buckets, with what we know besides."""

from typing import Literal

from service.wire import Output

GroupBy = Literal["api_key_id", "model", "adapter", "revision", "job_id"]


class UsageResult(Output, tag_field="object"):
    """Of what it is not grouped by, a result names nothing."""

    api_key_id: str | None
    """Null also for the operator's key."""
    model: str | None
    """As answers name it; of training the base."""
    adapter: str | None
    """Null also for the base."""
    revision: str | None
    """The digest; null also for the base, and for training that has no revision yet or any more."""


class GenerationUsage(UsageResult, tag="organization.usage.completions.result"):
    """What was generated, as OpenAI reports completions."""

    input_tokens: int
    output_tokens: int
    num_model_requests: int
    project_id: None
    user_id: None
    batch: None
    service_tier: None


class TrainingUsage(UsageResult, tag="usage.training.result"):
    """What was trained."""

    trained_tokens: int
    job_id: str | None


class UsageBucket(Output):
    """One day, in UTC; `end_time` is the next one's first second."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[GenerationUsage | TrainingUsage]


class UsagePage(Output):
    """Days in their order, those without use too. `next_page` goes into `page`."""

    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None
