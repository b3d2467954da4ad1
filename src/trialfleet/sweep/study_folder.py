"""The folder of a study, as the driver works on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trialfleet.trial.directory import TrialDir, trial_dir


@dataclass(frozen=True)
class StudyFolder:
    """Where a study's trials are, and which of those in its storage are its own.

    Attributes:
        folder: `sweeps/<study>`.
        submissions: where submissions, scripts and the launcher's logs go.
        uids: owners whose trials are ours: the study's uid, and those it had before it was copied.
        metric: the objective's name in reports, for pruning; None to look at no reports.
    """

    folder: Path
    submissions: Path
    uids: Sequence[str]
    metric: str | None

    def trial_dir(self, number: int) -> TrialDir:
        return trial_dir(self.folder, number)
