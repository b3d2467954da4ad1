"""`trialfleet SUBCOMMAND`: a word that is none is named."""

import os
import sys

import pytest

from trialfleet.commands import __main__ as commands
from trialfleet.commands.errors import shown


def test_a_subcommand_that_is_none_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trialfleet", "dashbord"])
    with pytest.raises(SystemExit) as left:
        commands.main()
    assert left.value.code == 2
    assert "there is no subcommand dashbord; did you mean dashboard?" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [1, 100_000])  # as many as wait in the process till its end, and more
def test_whoever_reads_the_output_may_close_it(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as left:
            shown(lambda: print("trial\n" * lines))
    assert left.value.code == 1


def test_an_interrupt_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        shown(interrupted)
    assert left.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
