"""What a manifest says of where its revision was made."""

from importlib.metadata import version

from adapters_store import Origin
from service.base.description import BaseDescription

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
UNKNOWN = "unknown"
"""How the base was held where an imported adapter was trained: nobody here saw it."""


def library_versions() -> dict[str, str]:
    """Name the versions of what trains and serves here."""
    return {name: version(name) for name in LIBRARIES}


def imported(base: BaseDescription, format_: str) -> Origin:
    """Describe an adapter that came from elsewhere, and was seen to be one of the base here.

    Reads the whole base once.
    """
    return Origin(
        base=base.name,
        base_digest=base.digest,
        base_commit=base.commit,
        quantization=UNKNOWN,
        compute_dtype=UNKNOWN,
        tokenizer_digest=base.tokenizer_digest,
        chat_template_digest=base.chat_template_digest,
        format=format_,
        library_versions=library_versions(),
        imported=True,
    )
