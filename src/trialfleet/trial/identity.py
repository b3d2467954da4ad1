"""Which trial a claim or a result was made for, so that it is never taken for another one's."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """A trial, wherever its folder may lie: a study, and the parameters that it was asked for.

    Attributes:
        study: uid of the study; None in a record of format 1, which does not say.
        params: digest of the trial's parameters (`records.digest`); None where the study is.
    """

    study: str | None
    params: str | None

    def is_of(self, trial: "Identity", uids: Collection[str]) -> bool:
        """Whether what bears this identity was made for `trial` of the study that has, or had, one of `uids`.

        A record that does not say counts only for a trial whose own record does not either: an earlier version of
        this project made both.
        """
        if self.study is None:
            return trial.study is None
        return self.study in uids and self.params == trial.params
