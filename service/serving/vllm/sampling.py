"""Rows in vLLM's words, and what it says of them in ours."""

from collections.abc import Mapping
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from service.base.rows import Pick, Row, Score


def wishes(row: Row) -> SamplingParams:
    """Say how a row's tokens are picked. Text and stop strings are ours to make and to find."""
    if row.scored:
        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
    grammar = row.grammar
    return SamplingParams(
        max_tokens=row.max_tokens,
        min_tokens=row.min_tokens,
        temperature=row.temperature,
        top_p=row.top_p,
        top_k=row.top_k,
        min_p=row.min_p,
        presence_penalty=row.presence_penalty,
        frequency_penalty=row.frequency_penalty,
        repetition_penalty=row.repetition_penalty,
        logit_bias=row.logit_bias or None,
        logprobs=row.logprobs,
        seed=row.seed,
        # What ends a row is what we say: among it, mostly, the base's end-of-turn tokens.
        ignore_eos=True,
        stop_token_ids=sorted(row.ends),
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def picks(row: Row, output: Any) -> list[Pick]:
    """Read the new tokens of a RequestOutput."""
    (completion,) = output.outputs
    tokens = completion.token_ids
    told = completion.logprobs if row.logprobs is not None else None
    return [_pick(row, token, told[at] if told else None) for at, token in enumerate(tokens)]


def score(row: Row, output: Any) -> Score | None:
    """Read a prompt's log-probabilities from the RequestOutput that has them."""
    if output.prompt_logprobs is None:
        return None
    pairs = zip(row.prompt[1:], output.prompt_logprobs[1:], strict=True)
    return Score(row.key, [told[token].logprob for token, told in pairs])


def _pick(row: Row, token: int, told: Mapping[int, Any] | None) -> Pick:
    if told is None:
        return Pick(row.key, token, None, [])
    ranked = sorted(told.items(), key=lambda item: item[1].rank)[: row.logprobs]
    return Pick(row.key, token, told[token].logprob, [(one, of.logprob) for one, of in ranked])
