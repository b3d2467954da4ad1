"""What trials report on their way, and the pruner's verdict on it."""

from collections.abc import Callable, Mapping

import optuna

from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.study.storage import StudyStorage
from trialfleet.trial import records

LINES_WITHOUT_METRIC = 20  # reports after which it is said that the pruner's metric is not among them


class Reports:
    """Takes in what trials report.

    Args:
        store: takes the values that the pruner judges.
        pruner: None where no trial is stopped early.
        metric: what the pruner judges; None with several objectives.
        begun: is told of each run of a trial, by its label, once it is known to report.
        notice: tells the user something.
    """

    def __init__(
        self,
        store: StudyStorage,
        pruner: optuna.pruners.BasePruner | None,
        metric: str | None,
        begun: Callable[[ActiveTrial, str], None],
        notice: Callable[[str], None],
    ) -> None:
        self._store = store
        self._pruner = pruner
        self._metric = metric
        self._begun = begun
        self._notice = notice
        self._judged = False  # whether the pruner had anything to judge
        self._lines_without_metric = 0
        self._error: Exception | None = None

    def take_in(self, trial: ActiveTrial, all_of_them: bool = False) -> None:
        """Read on in the trial's reports, and let the pruner judge them.

        Args:
            all_of_them: read on to the end; else as much as one look should take.
        """
        known = set(trial.offsets)
        for line in trial.new_lines(all_of_them):
            if self._pruner is None or self._metric is None:
                continue
            if self._metric not in line.values:
                self._miss_metric(line.values)
            elif not trial.pruned:
                self._judge(self._pruner, trial, line.step, line.values[self._metric])
        for label in trial.offsets.keys() - known:
            self._begun(trial, label)

    def take_in_at_once(self, trial: ActiveTrial) -> None:
        """The same of a trial that runs in this process, and has just reported: no turn comes before its end.

        An error here is none of the trial's, whose code is what called: `raise_error` raises it.
        """
        if self._pruner is None or self._error is not None:
            return
        try:
            trial.list_runs()
            self.take_in(trial)
        except Exception as error:  # noqa: BLE001  # raised again by `raise_error`
            self._error = error

    def raise_error(self) -> None:
        """Raise what went wrong within a trial's report, once the launcher has returned."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _miss_metric(self, reported: Mapping[str, float]) -> None:
        """Say, once, that nothing can be pruned. Trials may report the metric at other steps than the rest."""
        if not reported or self._judged:
            return
        self._lines_without_metric += 1
        if self._lines_without_metric == LINES_WITHOUT_METRIC:
            self._notice(
                f"the pruner judges {self._metric!r}, which no trial has reported yet; they report "
                f"{', '.join(sorted(reported))} (hydra.sweeper.metric)"
            )

    def _judge(self, pruner: optuna.pruners.BasePruner, trial: ActiveTrial, step: int, value: float) -> None:
        self._judged = True
        if not self._store.report(trial.trial_id, step, value):
            return
        if pruner.prune(self._store.judged, self._store.frozen(trial.trial_id)):
            self._store.sync()  # once there is a verdict, nobody reads reports for the pruner again
            records.create(trial.dir.verdict_json, {"prune_at": step, "value": value})
            trial.pruned = True
