"""Whether an adapter from elsewhere is one of the base that runs here. Pure."""

from adapters_store.intake import Arrival
from service.adapters.parity import differences
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
        for difference in differences(arrival.manifest.origin, base):
            what = difference.what
            raise BadLora(f"manifest.json: it was made for another {what} than the one here")


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
