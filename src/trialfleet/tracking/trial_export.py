"""One trial: its run in MLflow is made to agree with its folder.

What is sent is noted in the delivery log before it is sent. So each step may be taken twice, by this driver or the
next, without a trace in MLflow.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trialfleet.tracking import delivery_log
from trialfleet.tracking.dedup import Conflict, Dedup, Row, milliseconds, read_lines, read_range
from trialfleet.tracking.delivery_log import DeliveryLog, Range, TrialDelivery
from trialfleet.tracking.mlflow_runs import MAX_METRICS, Found, Refused, Runs, TrackingError, param_name
from trialfleet.tracking.trial_snapshot import CONFIG, LOG, Outcome, TrialSnapshot
from trialfleet.tracking.views import objective_names
from trialfleet.trial import records, secrets
from trialfleet.trial.metrics import SYSTEM, Line

log = logging.getLogger(__name__)

STUDY, TRIAL, UID, KIND = "trialfleet.study", "trialfleet.trial", "trialfleet.study_uid", "trialfleet.kind"
STATE, ERROR, BEST = "trialfleet.state", "trialfleet.error", "trialfleet.best"
CONFLICT, RETRY = "trialfleet.conflict", "trialfleet.retry"
PARENT, SOURCE, USER = "mlflow.parentRunId", "mlflow.source.name", "mlflow.user"

# Optuna's own MLflow callback maps the states like this, so scripts that know it find what they expect.
# MLflow's list shows KILLED and FAILED alike; the tag trialfleet.state tells them apart.
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "STOPPED": "KILLED", "FAIL": "FAILED"}
UPLOAD_TRIES = 3  # for a trial's artifacts together
LOG_BYTES = 1 << 20  # of a log's end, that MLflow gets
CHUNKS_A_TURN = 8  # of about a mebibyte each; then the other trials have their turn


class StudyGone(TrackingError):
    """A trial's run is gone, and so is the study's own: the study's runs have to be looked for anew."""


@dataclass(frozen=True)
class Place:
    """Where trials' runs go.

    Attributes:
        parent: the study's run; None for a single run, which belongs to no study.
        tags: those of every run.
        listing: the runs of the study's trials, if MLflow had to be asked for them.
    """

    experiment_id: str
    parent: str | None
    name: str
    tags: Mapping[str, str]
    listing: Mapping[int, Found] | None = None


@dataclass
class Batch:
    """Rows that are sent next, and the bytes they come from."""

    piece: Range
    rows: list[Row]
    conflicts: list[Conflict]
    noted: bool  # in the delivery log


class TrialExport:
    """Makes a trial's run in MLflow agree with the trial's folder.

    Args:
        read: reads the folder, as `trial_snapshot.read_trial` does; its argument is `ended`.
        delivered: what was sent, by this driver and those before it.
        complain: is told what the user should know; the export goes on.

    Attributes:
        ended: whether the driver has accepted the trial's result.
        retried: why the trial is run again; empty if it is not.
        changed: whether the folder is to be read again.
        unreadable: why it could not be read, in words.
        not_before: monotonic seconds; after an error the trial rests until then.
        synced_at: monotonic seconds of the last time that it had its turn; 0 before.
    """

    def __init__(
        self,
        number: int,
        read: Callable[[bool], TrialSnapshot | None],
        delivered: DeliveryLog,
        complain: Callable[[str], None],
    ) -> None:
        self.number = number
        self.ended, self.retried, self.changed = False, "", True
        self.snapshot: TrialSnapshot | None = None
        self.unreadable = ""
        self.not_before = self.synced_at = 0.0
        self.failures = 0
        self._read = read
        self._delivered = delivered
        self._complain = complain
        self._tags: Mapping[str, str] = {}  # those that were sent
        self._dedup: Dedup | None = None
        self._taken: list[Range] = []  # all that went through `_dedup`
        self._batch: Batch | None = None
        self._doubtful = False  # an earlier request to create the run may still be carried out
        self._conflicted = False
        self._upload_failures = 0
        self._files: dict[str, Path] = {}  # each run's metrics.jsonl
        self._spoilt: set[str] = set()  # runs of which it was told that their file holds more than reports

    def look(self) -> None:
        """Read the folder if it changed; once more at the next look if it cannot be read, or holds no trial yet."""
        if not self.changed:
            return
        snapshot, unreadable = None, ""
        try:
            snapshot = self._read(self.ended)
        except (records.Damaged, OSError) as error:
            unreadable = f"trial {self.number} is not sent to MLflow: {error}"
        if unreadable and unreadable != self.unreadable:
            log.warning("%s", unreadable)
        self.unreadable, self.changed = unreadable, snapshot is None
        self.snapshot = snapshot or self.snapshot

    def sync(self, runs: Runs, place: Place) -> bool:
        """Send what the trial's folder has, as last looked at, and MLflow lacks.

        The order is important: a run whose status says that its trial has ended lacks nothing, so that comes last.

        Returns:
            False if there is more to send.

        Raises:
            StudyGone: nothing is lost; look for the study's runs first.
            TrackingError, OSError: nothing is lost; call again later.
        """
        snapshot = self.snapshot
        if snapshot is None:
            return True
        self._files.update({run: folder / "metrics.jsonl" for run, folder in snapshot.runs.items()})
        self._files.update({f"{run}/{SYSTEM}": folder / SYSTEM for run, folder in snapshot.runs.items()})
        tags = {**place.tags, **snapshot.tags, **({RETRY: self.retried} if self.retried else {})}
        try:
            run_id = self._run(runs, place, snapshot, tags)  # 1. the run itself, with its parameters
            if snapshot.outcome is None:
                self._set_tags(runs, run_id, tags)  # 2. what may change meanwhile: attempt, job, …
            if not self._send_lines(runs, run_id, list(self._files)):  # 3. metrics
                return False
            if snapshot.outcome is not None:
                self._end(runs, run_id, place, snapshot.outcome, tags)  # 4. results, artifacts, tags, and the state
        except Refused as error:
            self._give_up_if_deleted(runs, error, place)
        return True

    @property
    def _trial(self) -> TrialDelivery:
        """What was sent of the trial; it is known once the trial has a run."""
        return self._delivered.trials[self.number]

    def _run(self, runs: Runs, place: Place, snapshot: TrialSnapshot, tags: Mapping[str, str]) -> str:
        """The trial's run: the one that it has, else one that is found, else a new one.

        The order is important: whoever dies on the way leaves a note that a run may be there, which is looked for then.
        """
        asked = self._delivered.trials.get(self.number)
        if asked is not None and asked.run_id is not None and asked.has_params:
            return asked.run_id
        # A request may have been carried out without an answer. For a single run there is no listing that tells.
        uncertain = asked is not None or place.parent is None
        found = self._find(runs, place, uncertain)
        at = snapshot.started_at if found is None else found.start / 1000
        self._doubtful |= (uncertain and found is None) or (asked is not None and asked.doubtful)
        self._delivered.note(delivery_log.create(self.number, at))  # 1. there may be a run
        if found is not None:
            run_id = found.run_id
        else:
            self._delivered.sync()
            name = run_name(self.number) if place.parent else place.name
            own = {TRIAL: str(self.number), KIND: "trial" if place.parent else "run"}
            own |= {PARENT: place.parent} if place.parent else {}
            tags = tags if snapshot.outcome is None else {**tags, **_end_tags(snapshot.outcome)}
            run_id = runs.create(place.experiment_id, milliseconds(at), name, {**tags, **own})  # 2. there is one
            self._tags = tags
        # What an adopted run has stands: an earlier version wrote all digits of it, and MLflow takes no other value.
        there = () if found is None else found.params
        new = {name: text for name, text in snapshot.params.items() if param_name(name) not in there}
        self._try(runs, run_id, "parameters", lambda: runs.set_params(run_id, new))
        unlisted = found is not None and bool(found.metrics)
        self._delivered.note(delivery_log.created(self.number, run_id, at, self._doubtful, unlisted))  # 3. it is this
        return run_id

    def _find(self, runs: Runs, place: Place, uncertain: bool) -> Found | None:
        if place.listing is not None and self.number in place.listing:
            return place.listing[self.number]
        found = runs.find(place.experiment_id, self._marks(place)) if uncertain else []
        return found[0] if found else None

    def _marks(self, place: Place) -> dict[str, str]:
        return {UID: place.tags[UID], TRIAL: str(self.number)}

    def _set_tags(self, runs: Runs, run_id: str, tags: Mapping[str, str]) -> None:
        new = {name: value for name, value in tags.items() if self._tags.get(name) != value}
        if new:
            self._try(runs, run_id, "tags", lambda: runs.set_tags(run_id, new))
            self._tags = tags

    def _send_lines(self, runs: Runs, run_id: str, labels: Iterable[str]) -> bool:
        """Send what the files have more than the log says. Returns False if there is more than one turn's share."""
        dedup = self._dedup or self._restore(runs, run_id)
        self._send_batch(runs, run_id)
        turns = CHUNKS_A_TURN
        for run in labels:
            while True:
                start = self._trial.offset(run)
                lines, end = read_lines(self._files[run], start, complain=self._complainer(run))
                if end == start:
                    break
                if turns == 0:
                    return False
                turns -= 1
                self._batch = Batch(Range(run, start, end), *dedup.take(lines), noted=False)
                self._send_batch(runs, run_id)
        return True

    def _send_batch(self, runs: Runs, run_id: str) -> None:
        batch = self._batch
        if batch is None:
            return
        if not batch.noted:
            self._delivered.note(delivery_log.sending(self.number, batch.piece))
            delivery_log.join(self._taken, batch.piece)
            batch.noted = True
        for start in range(0, len(batch.rows), MAX_METRICS):
            self._send_rows(runs, run_id, batch.rows[start : start + MAX_METRICS])
        if batch.conflicts and not self._conflicted:
            self._warn_of(batch.conflicts[0], batch.piece.run, runs, run_id)
        self._batch = None

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
        log.warning("trial %d: %s", self.number, text)
        self._conflicted = True

    def _restore(self, runs: Runs, run_id: str) -> Dedup:
        """What was sent by earlier drivers, from the files and the log. The newest range is sent again."""
        dedup = Dedup(self._earlier)
        ranges = self._trial.ranges()
        whole = [piece for piece in ranges if piece.run in self._files and _size(self._files[piece.run]) >= piece.end]
        if self._trial.unlisted or len(whole) < len(ranges):  # lines were lost with a machine's power, say
            runs.reopen(run_id)
            dedup.assume(runs.history(run_id, runs.metric_names(run_id)))
        self._taken, batch = [], None
        for piece in ranges:
            batch = Batch(piece, [], [], noted=True)
            for rows, conflicts in self._replay(dedup, piece):
                if piece is ranges[-1]:  # kept, to be sent again; of the others it is enough that `dedup` saw them
                    batch.rows += rows
                    batch.conflicts += conflicts
        self._batch, self._dedup = batch, dedup
        return dedup

    def _replay(self, dedup: Dedup, piece: Range) -> Iterator[tuple[list[Row], list[Conflict]]]:
        """What a range brings, a chunk at a time: it may be of any size."""
        start = piece.start
        while start < piece.end and piece.run in self._files:
            lines, end = read_lines(self._files[piece.run], start, piece.end, self._complainer(piece.run))
            if end == start:
                return
            yield dedup.take(lines)
            delivery_log.join(self._taken, Range(piece.run, start, end))
            start = end

    def _earlier(self) -> Iterator[Line]:
        for piece in self._taken:
            yield from read_range(self._files[piece.run], piece.start, piece.end, self._complainer(piece.run))

    def _end(self, runs: Runs, run_id: str, place: Place, outcome: Outcome, tags: Mapping[str, str]) -> None:
        """The results, and that the trial has ended. The status comes last: a run that has one lacks nothing."""
        start = milliseconds(self._trial.created_at + 0.0005)  # rounded: MLflow may have told it
        at = max(start, milliseconds(outcome.at))
        if rows := self._results(runs, run_id, place, outcome, at):
            self._send_rows(runs, run_id, rows)
        if outcome.datasets:
            self._try(runs, run_id, "data sets", lambda: runs.log_datasets(run_id, outcome.datasets))
        for name, path in outcome.artifacts.items():
            self._upload(runs, run_id, name, path)
        self._set_tags(runs, run_id, {**tags, **_end_tags(outcome)})
        runs.end(run_id, STATUS[outcome.state], at, None if place.parent is None else start)
        if self._trial.doubtful:
            remove_doubles(runs, run_id, place.experiment_id, self._marks(place))
        self._delivered.note(delivery_log.done(self.number, run_id))

    def _results(self, runs: Runs, run_id: str, place: Place, outcome: Outcome, at: int) -> list[Row]:
        """The objectives as points; those that a run has which was found with metrics stay as they are."""
        objectives = outcome.objectives
        has = runs.metric_names(run_id) if self._trial.unlisted and place.parent is not None and objectives else ()
        pairs = zip(objective_names(objectives), objectives.values(), strict=True)
        return [Row(name, records.number(value), at, 0) for name, value in pairs if name not in has]

    def _upload(self, runs: Runs, run_id: str, name: str, path: Path) -> None:
        """Artifacts are copies of what lies in the trial's folder: if one cannot be stored, all goes on."""
        if not path.exists():
            return
        folder = name if path.is_dir() else name.rpartition("/")[0]
        try:
            with _shown(name, path) as shown:
                runs.upload(run_id, shown, folder or None)
        except (TrackingError, OSError) as error:
            runs.is_active(run_id)  # raises Away if the server as such is away, which says nothing of the upload
            self._upload_failures += 1
            if self._upload_failures < UPLOAD_TRIES:
                raise TrackingError(str(error)) from error
            self._report(f"{path} can not be stored as an artifact ({error})")

    def _try(self, runs: Runs, run_id: str, what: str, call: Callable[[], None]) -> None:
        """Do without what MLflow will never take, unless the whole run is gone."""
        try:
            call()
        except Refused as error:
            if not runs.is_active(run_id):
                raise
            self._report(f"its {what} are refused by MLflow ({error})")

    def _give_up_if_deleted(self, runs: Runs, error: Refused, place: Place) -> None:
        """A run that a person deleted stays deleted, unless the study's own run is gone with it."""
        trial = self._delivered.trials.get(self.number)
        run_id = None if trial is None else trial.run_id
        if run_id is None or runs.is_active(run_id):
            raise TrackingError(str(error)) from error
        if place.parent is not None and not runs.is_active(place.parent):
            raise StudyGone(str(error)) from error
        self._report("its run was deleted in MLflow; nothing more is sent there")
        self._delivered.note(delivery_log.done(self.number, run_id))

    def _report(self, text: str) -> None:
        self._complain(f"trial {self.number}: {text}")

    def _complainer(self, run: str) -> Callable[[str], None]:
        """Tells of lines that are no reports, once a run: there may be millions of them."""

        def complain(text: str) -> None:
            if run not in self._spoilt:
                self._spoilt.add(run)
                self._report(text)

        return complain


def run_name(number: int, best: bool = False) -> str:
    """What MLflow's list shows: 'trial 00042', with a star for the best."""
    return f"trial {number:05d}" + (" ★ best" if best else "")


def _end_tags(outcome: Outcome) -> dict[str, str]:
    """What a run's tags say of the trial's end."""
    return {STATE: str(outcome.state), **({ERROR: outcome.error} if outcome.error else {})}


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


@contextlib.contextmanager
def _shown(name: str, path: Path) -> Iterator[Path]:
    """The file as others may see it: config and log may hold passwords of the application's, and a log any number
    of lines, of which the last ones are shown."""
    if name not in (CONFIG, LOG) or not path.is_file():
        yield path
        return
    text = records.tail(path, LOG_BYTES) if name == LOG else path.read_text(errors="surrogateescape")
    masked = secrets.masked(text)
    if masked == text and name == path.name:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.write_text(masked, errors="surrogateescape")
        yield copy
