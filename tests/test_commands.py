"""`trialfleet SUBCOMMAND`: a word that is none is named."""

import sys

import pytest

from trialfleet.commands import __main__ as commands


def test_a_subcommand_that_is_none_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trialfleet", "dashbord"])
    with pytest.raises(SystemExit) as left:
        commands.main()
    assert left.value.code == 2
    assert "there is no subcommand dashbord; did you mean dashboard?" in capsys.readouterr().err
