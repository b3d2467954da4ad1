"""`trialfleet report STUDY …`: `trialfleet study report`, which people look for here, too."""

from collections.abc import Sequence

from trialfleet.commands import study


def run(program: str, words: Sequence[str]) -> None:
    """Args:
        program: how the command is called.
        words: the command line behind that.

    Raises:
        UserError: there is no such study, or a word is wrong.
    """
    study.run(f"{program.rpartition(' ')[0]} study", ["report", *words])
