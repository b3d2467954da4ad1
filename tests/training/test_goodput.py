"""Seconds by purpose."""

from trialfleet.training import goodput


def test_a_block_that_has_not_ended_counts(monkeypatch):
    """A report is made within one: the time of the step that it is of is not the next report's."""
    now = 100.0
    monkeypatch.setattr(goodput.time, "monotonic", lambda: now)
    spent = goodput.Goodput()
    with spent.spent("train"):
        now = 103.0
        assert spent.of("train") == 3
    now = 200.0
    with spent.spent("train"):
        now = 201.0
        assert spent.of("train") == 4
        assert spent.of("save") == 0
    now = 300.0
    assert spent.of("train") == 4
    assert spent.seconds()["train"] == 4
