"""Whether an adapter from elsewhere is one of the base that runs here. Pure."""

from adapters_store import Origin
from adapters_store.intake import Arrival
from service.base.description import BaseDescription
from service.base.lora_rules import BadLora, PlainLora, check_tensors, plain
from service.training.spec import MAX_RANK


def check_servable(arrival: Arrival, base: BaseDescription) -> None:
    """Raise BadLora that names what this base, or its engine, cannot serve."""
    try:
        lora = _config(arrival, base)
    except BadLora as fault:
        raise BadLora(f"adapter_config.json: {fault}") from None
    check_tensors({each.name: each.shape for each in arrival.tensors}, lora, base.linear_shapes)
    if arrival.manifest is not None:
        _check_origin(arrival.manifest.origin, base)


def _config(arrival: Arrival, base: BaseDescription) -> PlainLora:
    lora = plain(arrival.document)
    if lora.rank > MAX_RANK:
        raise BadLora(f"'r' is {lora.rank}; the most that can be served is {MAX_RANK}")
    absent = sorted(set(lora.targets) - _targets_of(base))
    if absent:
        raise BadLora(f"'target_modules' names {absent[0]!a}, which is no layer of {base.name}")
    return lora


def _targets_of(base: BaseDescription) -> set[str]:
    """Give every name that a layer can be targeted by: its path, or the last parts of it."""
    paths = (name.split(".") for name in base.linear_shapes)
    return {".".join(parts[start:]) for parts in paths for start in range(len(parts))}


def _check_origin(origin: Origin, base: BaseDescription) -> None:
    for what, made_for, here in (
        ("base", origin.base_digest, base.digest),
        ("tokenizer", origin.tokenizer_digest, base.tokenizer_digest),
        ("chat template", origin.chat_template_digest, base.chat_template_digest),
    ):
        if made_for != here:
            raise BadLora(f"manifest.json: it was made for another {what} than the one here")
