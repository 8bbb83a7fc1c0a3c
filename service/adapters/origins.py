"""What a manifest says of where its revision was made."""

from importlib.metadata import version

from msgspec.structs import replace

from adapters_store import Origin
from service.base.description import BaseDescription

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
UNKNOWN = "unknown"
"""How the base was held where an imported adapter was trained: nobody here saw it."""


def library_versions() -> dict[str, str]:
    """Name the versions of what trains and serves here."""
    return {name: version(name) for name in LIBRARIES}


def origin_on(
    base: BaseDescription, format_: str, *, quantization: str, compute_dtype: str
) -> Origin:
    """Describe an adapter of `base`, held so where it was made. Reads the whole base once."""
    return Origin(
        base=base.name,
        base_digest=base.digest,
        base_commit=base.commit,
        quantization=quantization,
        compute_dtype=compute_dtype,
        tokenizer_digest=base.tokenizer_digest,
        chat_template_digest=base.chat_template_digest,
        format=format_,
    )


def imported(base: BaseDescription, format_: str) -> Origin:
    """Describe an adapter that came from elsewhere, and was seen to be one of the base here.

    Reads the whole base once.
    """
    origin = origin_on(base, format_, quantization=UNKNOWN, compute_dtype=UNKNOWN)
    return replace(origin, library_versions=library_versions(), imported=True)
