"""Labels of tenants: one each, and never more than the limit and one."""

from hypothesis import given
from hypothesis import strategies as st

from service.http.tenant_labels import NOBODY, OTHER, TenantLabels
from service.tenants.names import is_name


@given(st.lists(st.sampled_from(["acme", "globex", "initech", "umbrella"])), st.integers(0, 4))
def test_the_first_have_their_own_label_and_keep_it(asked: list[str], limit: int) -> None:
    labels = TenantLabels(limit)
    own = list(dict.fromkeys(asked))[:limit]
    for _ in range(2):
        given = [labels.label(name) for name in asked]
        assert given == [name if name in own else OTHER for name in asked]


def test_nobody_is_no_tenant() -> None:
    labels = TenantLabels(0)
    assert labels.label(None) == labels.label("") == NOBODY
    assert not is_name(NOBODY)
    assert not is_name(OTHER)
