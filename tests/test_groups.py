"""Tests that share what is dear to make are run by one worker: the marks of pytest-xdist say so."""

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_taken_notice_of(request: pytest.FixtureRequest) -> None:
    """The scheduler sees a test's group by the end of its name; some releases of pytest lose it without a word."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("there are no groups without --dist loadgroup")
    assert request.node.nodeid.endswith("@groups")
