"""How what a revision was trained on compares with what runs here.

Another base, tokenizer or template is refused when it is served; another quantization or dtype is
allowed, and shown.
"""

import msgspec

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    Origin,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.adapters_schemas import Held, Parity, ParityMatch
from service.adapters.origins import UNKNOWN
from service.base.description import BaseDescription
from service.errors import AdaptersUnavailable

SHOWN = 12
"""Digits of a digest that tell two apart for a person."""


class Difference(msgspec.Struct, frozen=True):
    """Something of the base's that is another one here; both are described for a person."""

    what: str
    trained: str
    served: str

    def __str__(self) -> str:
        return (
            f"the model was made for another {self.what} than the one that runs here: "
            f"for {self.trained}, and here is {self.served}"
        )


def differences(origin: Origin, base: BaseDescription) -> list[Difference]:
    """Give what makes a revision another base's. Reads the base's files once."""
    compared = (
        ("base", origin.base, origin.base_digest, base.name, base.digest),
        ("tokenizer", "", origin.tokenizer_digest, "", base.tokenizer_digest),
        ("chat template", "", origin.chat_template_digest, "", base.chat_template_digest),
    )
    return [
        Difference(what, _shown(trained_name, trained), _shown(served_name, served))
        for what, trained_name, trained, served_name, served in compared
        if trained != served
    ]


def parity_of(origin: Origin, base: BaseDescription, served: Held | None) -> Parity:
    """Compare a revision with what runs; `served` is None while no engine answers."""
    trained = Held(quantization=origin.quantization, compute_dtype=origin.compute_dtype)
    here = served or Held(quantization=UNKNOWN, compute_dtype=UNKNOWN)
    other = {difference.what for difference in differences(origin, base)}
    return Parity(
        trained=trained,
        served=served,
        match=ParityMatch(
            base="base" not in other,
            tokenizer="tokenizer" not in other,
            chat_template="chat template" not in other,
            quantization=_same(trained.quantization, here.quantization),
            compute_dtype=_same(trained.compute_dtype, here.compute_dtype),
        ),
    )


def parity_in(
    store: AdapterStore, ref: RevisionRef, base: BaseDescription, served: Held | None
) -> Parity | None:
    """Compare a revision by its manifest; None unless its files are whole. Blocks."""
    try:
        return parity_of(store.open(ref).manifest.origin, base, served)
    except (InvalidAdapter, RevisionNotFound):
        return None
    except StoreUnavailable:
        raise AdaptersUnavailable from None


def _same(trained: str, served: str) -> bool | None:
    return None if UNKNOWN in {trained, served} else trained == served


def _shown(name: str, digest: str) -> str:
    return f"{name} sha256:{digest[:SHOWN]}".strip()
