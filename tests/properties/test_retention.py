"""What retention lets go of, whatever an adapter's history is."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from service.adapters.retention import Name, Version, beyond


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """Revisions, newest first: results, checkpoints, imports, equal content, rejected ones."""
    of_revision = draw(st.lists(st.integers(0, 5), max_size=14))
    names: dict[int, list[Name]] = {}
    for seq, place in enumerate(of_revision):
        job = draw(st.sampled_from([None, "job-1", "job-2", "job-3"]))
        step = draw(st.sampled_from([None, 1, 2])) if job else None
        names.setdefault(place, []).append(Name(seq, f"m{seq}", job, step, seq // 2))
    for place in draw(st.sets(st.integers(6, 7))):
        names[place] = []
    return [
        Version(f"{place:064x}", draw(st.integers(0, 7)), draw(st.booleans()), named)
        for place, named in sorted(names.items(), reverse=True)
    ]


needs = st.dictionaries(
    st.integers(0, 7).map("{:064x}".format), st.lists(st.just("the alias x"), max_size=2)
)


def results(versions: Sequence[Version]) -> list[tuple[int, str]]:
    """Names of servable results with their digests, newest first."""
    found = [
        (name.seq, v.digest) for v in versions if v.servable for name in v.names if not name.step
    ]
    return sorted(found, reverse=True)


@given(histories(), st.integers(1, 4), needs)
def test_the_newest_results_stay_and_a_need_is_told(
    versions: list[Version], keep_last: int, needed: dict[str, list[str]]
) -> None:
    verdicts = beyond(versions, keep_last, needed)
    judged = {verdict.version.digest: verdict for verdict in verdicts}
    newest = {digest for _, digest in results(versions)[:keep_last]}
    assert newest.isdisjoint(judged)
    for digest, verdict in judged.items():
        assert list(verdict.kept_by) == needed.get(digest, [])
    assert [v.digest for v in versions if v.digest in judged] == [*judged]


@given(histories(), st.integers(1, 4))
def test_every_other_result_goes(versions: list[Version], keep_last: int) -> None:
    judged = {verdict.version.digest for verdict in beyond(versions, keep_last, {})}
    newest = {seq for seq, _ in results(versions)[:keep_last]}
    for version in versions:
        own = [name.seq for name in version.names if name.step is None]
        if version.servable and len(own) == len(version.names) > 0 and newest.isdisjoint(own):
            assert version.digest in judged


@given(histories(), st.integers(1, 4))
def test_checkpoints_go_when_their_result_does(versions: list[Version], keep_last: int) -> None:
    judged = {verdict.version.digest for verdict in beyond(versions, keep_last, {})}
    newest = {seq for seq, _ in results(versions)[:keep_last]}
    result_of: dict[str | None, int] = {}
    for version in versions:
        for name in version.names if version.servable else ():
            if name.step is None and name.job_id is not None:
                result_of[name.job_id] = max(name.seq, result_of.get(name.job_id, -1))
    for version in versions:
        if version.names and all(n.step and n.job_id in result_of for n in version.names):
            kept = any(result_of[name.job_id] in newest for name in version.names)
            assert (version.digest in judged) == (not kept)


@given(histories(), st.integers(1, 4))
def test_a_larger_limit_lets_go_of_no_more(versions: list[Version], keep_last: int) -> None:
    some = {verdict.version.digest for verdict in beyond(versions, keep_last, {})}
    fewer = {verdict.version.digest for verdict in beyond(versions, keep_last + 1, {})}
    assert fewer <= some


@given(histories())
def test_without_a_limit_all_stay(versions: list[Version]) -> None:
    assert beyond(versions, None, {}) == []
