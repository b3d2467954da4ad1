"""What of a study's own folder goes to its run in MLflow: its report with all that belongs to it, and its curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

from trialfleet.tracking import delivery_log
from trialfleet.tracking.dedup import Row, metric_name, milliseconds, read_lines
from trialfleet.tracking.delivery_log import DeliveryLog
from trialfleet.tracking.mlflow_runs import MAX_METRICS, Refused, Runs, TrackingError


class StudyFiles:
    """Sends what is new of them.

    Args:
        delivered: what was sent before.
        curves: the file with the study's own curves; None if there are none.
        complain: tells the user what MLflow does not take.
    """

    def __init__(self, delivered: DeliveryLog, curves: Path | None, complain: Callable[[str], None]) -> None:
        self._delivered = delivered
        self._curves = curves
        self._complain = complain

    def are_new(self, report: Sequence[Path]) -> bool:
        """Whether there is anything to send.

        Args:
            report: the files and folders of the study's report, of which the first is written last; none if there is
                no report.
        """
        return bool(self._new_report(report)) or self._new_points()

    def send(self, runs: Runs, parent: str, report: Sequence[Path]) -> bool:
        """Send the report, and points of the curves.

        Returns:
            False if there may be more points.
        """
        self._send_report(runs, parent, report)
        return self._send_points(runs, parent)

    def _new_report(self, report: Sequence[Path]) -> str:
        """What tells the report from the one that was sent; empty if that is the same."""
        if not report:
            return ""
        try:
            found = report[0].stat()
        except OSError:
            return ""
        mark = f"{found.st_mtime_ns} {found.st_size}"
        return mark if mark != self._delivered.study.report else ""

    def _send_report(self, runs: Runs, parent: str, report: Sequence[Path]) -> None:
        """It is a copy of what is in the study's folder: what of it MLflow does not take is left out, and said."""
        mark = self._new_report(report)
        if not mark:
            return
        for path in report:
            if not path.exists():
                continue
            try:
                runs.upload(parent, path, path.name if path.is_dir() else None)
            except (TrackingError, OSError) as error:
                runs.is_active(parent)  # raises Away if the server as such is away, which says nothing of the upload
                self._complain(f"{path} can not be stored as an artifact ({error})")
        self._delivered.note_study(report=mark)

    def _new_points(self) -> bool:
        """Whether there is more of the curves than the run has. Points alone bring no run into being."""
        if self._curves is None or self._delivered.study.run_id is None:
            return False
        try:
            return self._curves.stat().st_size > self._delivered.study.curves
        except OSError:
            return False

    def _send_points(self, runs: Runs, parent: str) -> bool:
        """Send what is new, from what has arrived for sure on: points that are there already stay as they are."""
        if self._curves is None:
            return True
        start = self._delivered.study.curves
        lines, end = read_lines(self._curves, start, complain=self._complain)
        if end == start:
            return True
        self._delivered.note(delivery_log.curves(start))  # as before all that is sent: nobody else drives the study
        rows = [
            Row(metric_name(name), value, milliseconds(line.time), line.step)
            for line in lines
            for name, value in line.values.items()
        ]
        for begin in range(0, len(rows), MAX_METRICS):
            try:
                runs.log(parent, rows[begin : begin + MAX_METRICS])
            except Refused as error:
                if not runs.is_active(parent):
                    raise
                self._complain(f"points of the study's curves are refused by MLflow ({error})")
        self._delivered.note(delivery_log.curves(end))
        return False
