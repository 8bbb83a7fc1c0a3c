"""Every Hypothesis strategy that more than one test needs."""

from hypothesis import strategies as st

from service.adapters.names import PATTERN

names = st.from_regex(PATTERN, fullmatch=True)
"""Names of bases, tenants, adapters and aliases."""

revs = st.text("0123456789abcdef", min_size=8, max_size=64)
"""A revision's short or whole digest."""


def digests() -> st.SearchStrategy[str]:
    """Whole digests that often begin alike."""
    begin = st.text("01", min_size=12, max_size=12)
    return st.builds(lambda text, fill: text + fill * 52, begin, st.sampled_from("0123456789abcdef"))
