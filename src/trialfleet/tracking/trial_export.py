"""One trial on its way into MLflow: its run, parameters, metric lines and outcome, in this order, resumable.

Each step is noted in the cursor before it is taken, and may be taken twice without a trace.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trialfleet.tracking import delivery_log as note
from trialfleet.tracking.dedup import Conflict, Dedup, Row, milliseconds, read_lines, read_range
from trialfleet.tracking.delivery_log import DeliveryLog, Range, Trial
from trialfleet.tracking.mlflow_runs import MAX_METRICS, Found, Refused, Runs, TrackingError
from trialfleet.tracking.views import objective_names
from trialfleet.trial import records
from trialfleet.trial.metrics import Line

log = logging.getLogger(__name__)

STUDY, TRIAL, UID, KIND = "trialfleet.study", "trialfleet.trial", "trialfleet.study_uid", "trialfleet.kind"
STATE, ERROR, BEST = "trialfleet.state", "trialfleet.error", "trialfleet.best"
CONFLICT = "trialfleet.conflict"
PARENT, SOURCE, USER = "mlflow.parentRunId", "mlflow.source.name", "mlflow.user"

# Optuna's own MLflow callback maps the states like this, so scripts that know it find what they expect.
# MLflow's list shows KILLED and FAILED alike; the tag trialfleet.state tells them apart.
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
UPLOAD_TRIES = 3  # for a trial's artifacts together
CHUNKS_A_TURN = 8  # of about a mebibyte each; then the other trials have their turn


class StudyGone(TrackingError):
    """A trial's run is gone, and so is the study's own: the study's runs have to be looked for anew."""


@dataclass(frozen=True)
class Place:
    """Where trials' runs go: an experiment, the study's run in it, and what every run is tagged with."""

    experiment_id: str
    parent: str | None
    name: str
    tags: Mapping[str, str]
    listing: Mapping[int, Found] | None = None  # the runs of its trials, if it had to be looked what is there


@dataclass
class Outbox:
    """Rows that are to be sent next, and the bytes they come from."""

    piece: Range
    rows: list[Row]
    conflicts: list[Conflict]
    noted: bool


class TrialExport:
    """Brings a trial's files into its MLflow run; `advance` goes as far as there is something to send.

    Args:
        trial: what the cursor knows of it.
        cursor: where each step is noted.
        fresh: nothing of the trial can be in MLflow yet.
        complain: is told what the user should know; forwarding goes on.
    """

    def __init__(self, trial: Trial, cursor: DeliveryLog, fresh: bool, complain: Callable[[str], None]) -> None:
        self.trial = trial
        self.not_before = 0.0  # monotonic seconds; after an error the trial rests until then
        self.failures = 0
        self._cursor = cursor
        self._complain = complain
        self._uncertain = not fresh
        self._wanted: dict[str, str] = {}
        self._known = dict(trial.tags) if fresh else {}
        self._once: Dedup | None = None
        self._behind: list[Range] = []  # all that went through `_once`
        self._outbox: Outbox | None = None
        self._conflicted = False
        self._upload_failures = 0
        self._unreadable: set[Path] = set()  # files of which it was told that they hold more than reports

    def tag(self, tags: Mapping[str, str]) -> None:
        self._wanted.update(tags)

    def behind(self) -> bool:
        """Whether there is something to forward (looks at the sizes of files)."""
        waiting = self.trial.run_id is None or self.trial.ended is not None or self._outbox is not None
        return waiting or any(_size(self._file(run)) > self.trial.offset(run) for run in self.trial.runs)

    def advance(self, runs: Runs, place: Place) -> bool:
        """Send what there is.

        Returns:
            False if there is more to send.

        Raises:
            StudyGone: nothing is lost; look for the study's runs first.
            TrackingError, OSError: nothing is lost; call again later.
        """
        try:
            run_id = self._run(runs, place)
            self._set_params(runs, run_id)
            self._set_tags(runs, run_id)
            if not self._send_lines(runs, run_id):
                return False
            if self.trial.ended is not None:
                self._finish(runs, run_id, place)
        except Refused as error:
            self._give_up_if_deleted(runs, error, place)
        return True

    def _run(self, runs: Runs, place: Place) -> str:
        trial = self.trial
        if trial.run_id is not None:
            return trial.run_id
        found = self._find(runs, place)
        doubtful = self._uncertain and not found
        at = trial.created_at
        if found:
            run_id, at = found[0].run_id, found[0].start / 1000
        else:
            self._uncertain = True
            self._cursor.sync()
            name = run_name(trial.number) if place.parent else place.name
            run_id = runs.create(place.experiment_id, milliseconds(at), name, self._identity(place))
        self._cursor.note(note.created(trial.number, run_id, at, doubtful, bool(found and found[0].metrics)))
        return run_id

    def _identity(self, place: Place) -> dict[str, str]:
        tags = {**place.tags, **self.trial.tags, TRIAL: str(self.trial.number)}
        return {**tags, KIND: "trial", PARENT: place.parent} if place.parent else {**tags, KIND: "run"}

    def _find(self, runs: Runs, place: Place) -> list[Found]:
        if place.listing is not None and self.trial.number in place.listing:
            return [place.listing[self.trial.number]]
        return runs.find(place.experiment_id, self._marks(place)) if self._uncertain else []

    def _marks(self, place: Place) -> dict[str, str]:
        return {UID: place.tags[UID], TRIAL: str(self.trial.number)}

    def _set_params(self, runs: Runs, run_id: str) -> None:
        if not self.trial.ready:
            self._try(runs, run_id, "parameters", lambda: runs.set_params(run_id, self.trial.params))
            self._cursor.note({"event": "ready", "trial": self.trial.number})

    def _set_tags(self, runs: Runs, run_id: str) -> None:
        tags = {name: value for name, value in self._wanted.items() if self._known.get(name) != value}
        if tags:
            self._try(runs, run_id, "tags", lambda: runs.set_tags(run_id, tags))
            self._known |= tags
        self._wanted = {}

    def _send_lines(self, runs: Runs, run_id: str) -> bool:
        once = self._once or self._restore(runs, run_id)
        self._send_outbox(runs, run_id)
        turns = CHUNKS_A_TURN
        for run in list(self.trial.runs):
            while True:
                start = self.trial.offset(run)
                lines, end = read_lines(self._file(run), start, complain=self._complainer(run))
                if end == start:
                    break
                if turns == 0:
                    return False
                turns -= 1
                self._outbox = Outbox(Range(run, start, end), *once.take(lines), noted=False)
                self._send_outbox(runs, run_id)
        return True

    def _send_outbox(self, runs: Runs, run_id: str) -> None:
        box = self._outbox
        if box is None:
            return
        if not box.noted:
            self._cursor.note(note.sending(self.trial.number, box.piece))
            note.join(self._behind, box.piece)
            box.noted = True
        for start in range(0, len(box.rows), MAX_METRICS):
            self._send_rows(runs, run_id, box.rows[start : start + MAX_METRICS])
        if box.conflicts and not self._conflicted:
            self._warn_of(box.conflicts[0], box.piece.run, runs, run_id)
        self._outbox = None

    def _send_rows(self, runs: Runs, run_id: str, rows: list[Row]) -> None:
        """One request; if MLflow refuses it, halves of it, so that one bad row does not take others along."""
        try:
            runs.log(run_id, rows)
        except Refused as error:
            if not runs.is_active(run_id):
                raise
            if len(rows) == 1:
                self._report(f"{rows[0].name} at step {rows[0].step} is refused by MLflow ({error})")
                return
            middle = len(rows) // 2
            self._send_rows(runs, run_id, rows[:middle])
            self._send_rows(runs, run_id, rows[middle:])

    def _warn_of(self, conflict: Conflict, run: str, runs: Runs, run_id: str) -> None:
        text = f"{conflict} (run {run}); the first value stands"
        self._try(runs, run_id, "tags", lambda: runs.set_tags(run_id, {CONFLICT: text}))
        log.warning("trial %d: %s", self.trial.number, text)
        self._conflicted = True

    def _restore(self, runs: Runs, run_id: str) -> Dedup:
        """Rebuild, from files and cursor, what was sent; the newest range is to be sent again."""
        once = Dedup(self._earlier)
        pieces = [*self.trial.sent, *([self.trial.last] if self.trial.last else [])]
        lost = any(_size(self._file(piece.run)) < piece.end for piece in pieces)  # by a power cut, say
        if self.trial.unlisted or lost:
            runs.reopen(run_id)
            once.assume(runs.history(run_id, runs.metric_names(run_id)))
        self._behind, box = [], None
        for piece in pieces:
            box = Outbox(piece, [], [], noted=True)
            for rows, conflicts in self._replay(once, piece):
                if piece is pieces[-1]:
                    box.rows += rows
                    box.conflicts += conflicts
        self._outbox, self._once = box, once
        return once

    def _replay(self, once: Dedup, piece: Range) -> Iterator[tuple[list[Row], list[Conflict]]]:
        start = piece.start
        while start < piece.end:
            lines, end = read_lines(self._file(piece.run), start, piece.end, self._complainer(piece.run))
            if end == start:
                return
            yield once.take(lines)
            note.join(self._behind, Range(piece.run, start, end))
            start = end

    def _earlier(self) -> Iterator[Line]:
        for piece in self._behind:
            yield from read_range(self._file(piece.run), piece.start, piece.end, self._complainer(piece.run))

    def _finish(self, runs: Runs, run_id: str, place: Place) -> None:
        ended = self.trial.ended
        assert ended is not None
        start = milliseconds(self.trial.created_at + 0.0005)  # rounded: MLflow may have told it
        at = max(start, milliseconds(ended["at"]))
        if rows := self._results(runs, run_id, place, at):
            self._send_rows(runs, run_id, rows)
        for name, relative in ended["artifacts"].items():
            self._upload(runs, run_id, name, self._cursor.path.parent / relative)
        tags = {**ended["tags"], STATE: ended["state"], **({ERROR: ended["error"]} if ended["error"] else {})}
        self._try(runs, run_id, "tags", lambda: runs.set_tags(run_id, tags))
        runs.end(run_id, STATUS[ended["state"]], at, None if place.parent is None else start)
        if self.trial.doubtful:
            remove_doubles(runs, run_id, place.experiment_id, self._marks(place))
        self._cursor.note(note.done(self.trial.number, run_id))

    def _results(self, runs: Runs, run_id: str, place: Place, at: int) -> list[Row]:
        """The objectives as points; those that a run has which was found with metrics stay as they are."""
        assert self.trial.ended is not None
        objectives = self.trial.ended["objectives"]
        has = runs.metric_names(run_id) if self.trial.unlisted and place.parent is not None and objectives else ()
        pairs = zip(objective_names(objectives), objectives.values(), strict=True)
        return [Row(name, records.number(value), at, 0) for name, value in pairs if name not in has]

    def _upload(self, runs: Runs, run_id: str, name: str, path: Path) -> None:
        """Artifacts are copies of what lies in the trial's folder: if one can not be stored, all goes on."""
        if not path.exists():
            return
        folder = name if path.is_dir() else name.rpartition("/")[0]
        try:
            runs.upload(run_id, path, folder or None)
        except TrackingError as error:
            runs.is_active(run_id)  # raises Away if the server as such is away, which says nothing of the upload
            self._upload_failures += 1
            if self._upload_failures < UPLOAD_TRIES:
                raise TrackingError(str(error)) from error
            self._report(f"{path} can not be stored as an artifact ({error})")

    def _try(self, runs: Runs, run_id: str, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Refused as error:
            if not runs.is_active(run_id):
                raise
            self._report(f"its {what} are refused by MLflow ({error})")

    def _give_up_if_deleted(self, runs: Runs, error: Refused, place: Place) -> None:
        run_id = self.trial.run_id
        if run_id is None or runs.is_active(run_id):
            raise TrackingError(str(error)) from error
        if place.parent is not None and not runs.is_active(place.parent):
            raise StudyGone(str(error)) from error
        self._report("its run was deleted in MLflow; nothing more is sent there")
        self._cursor.note(note.done(self.trial.number, run_id))

    def _report(self, text: str) -> None:
        self._complain(f"trial {self.trial.number}: {text}")

    def _complainer(self, run: str) -> Callable[[str], None]:
        """Tells of lines that are no reports, once a file: there may be millions of them."""

        def complain(text: str) -> None:
            if self._file(run) not in self._unreadable:
                self._unreadable.add(self._file(run))
                self._report(text)

        return complain

    def _file(self, run: str) -> Path:
        return self.trial.runs[run] / "metrics.jsonl"


def run_name(number: int, best: bool = False) -> str:
    """What MLflow's list shows: 'trial 00042', with a star for the best."""
    return f"trial {number:05d}" + (" ★ best" if best else "")


def remove_doubles(runs: Runs, run_id: str, experiment_id: str, marks: Mapping[str, str]) -> None:
    """Delete the runs, other than `run_id`, that a request without an answer brought into being after all."""
    for other in runs.find(experiment_id, marks):
        if other.run_id != run_id:
            runs.delete(other.run_id)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
