"""The way of results into MLflow, beside the driver: every call returns at once, a thread does the rest.

    exporter = Exporter(folder, destination, ExportedStudy(name, uid, {"val/wer": "minimize"}))
    exporter.start()
    exporter.changed(42)
    exporter.changed(42, ended=True)
    exporter.study_changed(best=[42], description="…")
    exporter.study_ended("COMPLETE")
    exporter.flush(30)
    exporter.close()

The export is level-triggered: nobody tells it what happened, only that something did. The thread then reads the
trial's folder and makes MLflow agree with it. So it is no matter how often something is said, whether a driver died
before it said it, or how long MLflow was away; and what MLflow has lost is sent again without anybody being asked.
What each module knows:

    trial_snapshot  what MLflow is to show of a trial: trial.json, the claims and result.json, read into one value
    trial_export    makes one trial's run agree with its snapshot and its metrics.jsonl
    study_export    makes the study's run, its trials and the marks of the best agree with the study
    delivery_log    what was sent: runs, and byte ranges of metrics.jsonl, each noted before it is sent
    dedup           lets the first value of each (metric, step) through, whichever of a trial's runs wrote it
    mlflow_runs     MLflow's client, and what its errors mean

What is in no folder comes with the call: that the driver has accepted a trial's result, why a trial is tried again,
which trials are best, and how the driver left the study.
"""

import contextlib
import functools
import getpass
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from trialfleet.tracking import database_schema
from trialfleet.tracking.delivery_log import DeliveryLog, NotOurs
from trialfleet.tracking.destination import DamagedDatabase, Destination, knows_run
from trialfleet.tracking.mlflow_runs import (
    Away,
    Damaged,
    Runs,
    TrackingError,
    clean,
    load,
    param_name,
    prepare_environment,
    release,
)
from trialfleet.tracking.study_export import (
    LONGEST_WAIT,
    ExportedStudy,
    StudyExport,
    StudyState,
    StudyStatus,
    waiting_time,
)
from trialfleet.tracking.trial_export import SOURCE, USER
from trialfleet.tracking.trial_snapshot import Outcome, Stopped, TrialSnapshot, artifacts_of, read_trial
from trialfleet.trial import records
from trialfleet.trial.metrics import CURVES
from trialfleet.trial.result import TrialState
from trialfleet.trial.run import Preempted, Pruned

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
HURRIED_WAIT = 2.0  # seconds between two tries while somebody waits in `flush`
LONGEST_ROUND = 2.0  # seconds after which it is heard first which trials have ended meanwhile
WAITING_LOOK = 0.2  # seconds between two words to whoever waits there
GoesOn = Callable[[str | None], bool]


def _always(problem: str | None) -> bool:
    return True


class Exporter:
    """Exports one study (or one single run) to MLflow, from one process at a time; any thread may call.

    Args:
        directory: the study's folder, which exists; it holds the delivery log, one for each destination.
        destination: where to, from `destination.resolve`.
        study: what the study is.
        poll_interval: seconds between two looks at the metrics of running trials.
        ours: tells whether the study is still ours to export; once it is not, nothing more is sent.
        rebuild: set the delivery log aside: what MLflow has is found again there, and the rest is sent again.
        read: reads a trial, for a single run; a study's trials are read from their folders.

    Raises:
        OSError: the delivery log cannot be read or written.
    """

    def __init__(
        self,
        directory: Path,
        destination: Destination,
        study: ExportedStudy,
        poll_interval: float = POLL_SECONDS,
        ours: Callable[[], bool] = lambda: True,
        rebuild: bool = False,
        read: Callable[[int, bool], TrialSnapshot | None] | None = None,
    ) -> None:
        self._destination = destination
        self._interval = poll_interval
        delivered = DeliveryLog(directory / f"mlflow-{destination.key}.jsonl", ours)
        if rebuild:
            delivered.forget()
        read = read or functools.partial(read_trial, directory, list(study.objectives))
        run_is_there = functools.partial(knows_run, destination, study.uid)
        curves = None if study.single else directory / CURVES
        self._export = StudyExport(
            delivered, study, read, self._connect, run_is_there, curves, self._pause, LONGEST_ROUND
        )
        self._changes: deque[tuple[int, bool, str]] = deque()  # arguments of `changed`, which the thread takes
        self._status = StudyStatus()
        self._saying = threading.Lock()
        self._wake = threading.Condition()
        self._stopping = self._early = False
        self._flush_wanted = 0
        self._flush_done = 0
        self._away: str | None = None
        self._damaged = False
        self._failures = 0
        self._not_before = 0.0  # monotonic seconds
        self._thread = threading.Thread(target=self._work, name="mlflow-exporter", daemon=True)

    def start(self) -> None:
        """Start the thread. MLflow is imported, and its database made, there and when first needed."""
        prepare_environment()
        self._thread.start()

    def prepare(self) -> None:
        """There will be something to send soon: import MLflow now, which takes seconds, and connect to it."""
        with self._wake:
            self._early = True
            self._wake.notify_all()

    @property
    def finished(self) -> frozenset[int]:
        """Trials that are in MLflow completely."""
        return frozenset(list(self._export.delivered.finished))

    def study_run(self) -> tuple[str, str] | None:
        """The ids of the experiment and of the study's own run; None while there is none."""
        known = self._export.delivered.study
        return None if known.experiment_id is None or known.run_id is None else (known.experiment_id, known.run_id)

    def changed(self, number: int, ended: bool = False, retried: str = "") -> None:
        """Something changed in this trial's folder, or may have.

        Args:
            ended: the driver has accepted the trial's result, which is in its folder.
            retried: why the trial is tried again, for the run's tags.
        """
        self._changes.append((number, ended, retried))

    def study_changed(self, best: Collection[int], description: str) -> None:
        """These trials, and no others, are the best (several with several objectives).

        Args:
            description: the text at the top of the study's page in MLflow, in Markdown.
        """
        self._say(best=best, description=description)

    def study_described(self, description: str) -> None:
        """The same text, while no trial is the best yet."""
        self._say(description=description)

    def study_report(self, *paths: Path) -> None:
        """These files and folders are for people who look at the study's run; they are sent whenever the first one,
        which is written last, is another one."""
        self._say(report=paths)

    def study_ended(self, state: StudyState) -> None:
        """The driver stops: the study is complete, was stopped before its end, or failed."""
        self._say(state=state, ended_at=time.time())

    def _say(self, **entries: Any) -> None:
        with self._saying:  # reports come from a thread of their own
            self._status = replace(self._status, **entries)

    def away(self) -> str | None:
        """Why MLflow takes nothing now, or None."""
        away, damaged = self._away, self._damaged
        return away if away is None or damaged else f"{self._destination.shown}: {away}"

    def problem(self) -> str | None:
        """A line for the user, or None: the server is away, or something was refused and left out."""
        if (away := self.away()) is not None:
            return away if self._damaged else f"{away}; it is tried again, and nothing is lost"
        problems = [*self._export.problems, *self._export.waiting.values()]
        more = f" (and {len(problems) - 1} more, see the log)" if len(problems) > 1 else ""
        return problems[-1] + more if problems else None

    def flush(self, timeout: float, goes_on: GoesOn = _always) -> bool:
        """Wait until all that was said and written before is in MLflow.

        Args:
            goes_on: called several times a second with why MLflow takes nothing, or None; False ends the wait.

        Returns:
            False if `timeout` seconds were not enough. Nothing is lost then: the next start goes on.
        """

        def over() -> bool:
            return self._flush_done >= mine or not self._thread.is_alive()

        with self._wake:
            self._flush_wanted += 1
            mine, until = self._flush_wanted, time.monotonic() + timeout
            self._wake.notify_all()
        while not over() and (left := until - time.monotonic()) > 0 and goes_on(self.away()):
            with self._wake:
                self._wake.wait_for(over, min(left, WAITING_LOOK))
        return self._flush_done >= mine

    def close(self, timeout: float = 20.0) -> None:
        """Stop after the request in work. Does not wait for the rest: see `flush`."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if not self._thread.is_alive():
            self._export.delivered.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> Runs:
        release(self._destination)  # connections to a file that was here before
        if self._destination.database is not None:
            try:
                database_schema.ensure(self._destination.database, load)
            except DamagedDatabase as error:
                raise Damaged(str(error)) from error
            except (database_schema.SchemaError, OSError) as error:
                raise Away(f"its database can not be made ({error})") from error
        return Runs(self._destination)

    def _work(self) -> None:
        while not self._stopping:
            flush = self._flush_wanted
            idle = self._turn()
            with self._wake:
                if idle and not self._changes:
                    self._flush_done = flush
                    self._wake.notify_all()
                waited_for = self._flush_done < self._flush_wanted
                pause = min(0.1, self._interval) if waited_for else self._interval
                pause = 0.0 if self._export.cut_short else pause
                pause = max(pause, self._not_before - time.monotonic())
                if not self._stopping and self._flush_wanted == flush and not (self._early and idle):
                    self._wake.wait(pause)
                if self._flush_wanted > flush:
                    self._not_before = 0.0
                    self._export.hurry()

    def _pause(self, took: float) -> None:
        """Rest for half of the time that a trial took, so that dispatch in the same process goes on; not while somebody
        waits in `flush`: then dispatch has ended."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._flush_done < self._flush_wanted, took / 2)

    def _turn(self) -> bool:
        """Take what was said, then send. Returns whether nothing is left for now."""
        try:
            if time.monotonic() < self._not_before:
                return False
            if self._early:
                self._export.connect()
                self._early = False
            self._export.set_status(self._status)
            while self._changes:
                self._export.changed(*self._changes[0])
                self._changes.popleft()  # afterwards: an error (the disk is full, say) leaves it first in line
            idle = self._export.round()
        except NotOurs:
            self._stopping = True
        except (TrackingError, OSError) as error:
            self._rest(str(error), isinstance(error, Damaged))
        except Exception as error:  # a defect in here must neither end the study nor spin
            log.exception("the export to MLflow failed")
            self._rest(f"{type(error).__name__}: {error} (a bug in trialfleet, see the log)")
        else:
            self._failures, self._away = 0, None
            return idle
        return False

    def _rest(self, reason: str, damaged: bool = False) -> None:
        self._failures += 1
        self._away, self._damaged = clean(reason), damaged
        hurried = self._flush_wanted > self._flush_done
        longest = HURRIED_WAIT if hurried else LONGEST_WAIT
        self._not_before = time.monotonic() + waiting_time(self._failures, longest)


def label_tags(labels: Collection[str]) -> dict[str, str]:
    """A person's labels as tags of MLflow's."""
    return {param_name(label): "true" for label in labels if label.strip("/ ")}


def code_tags(entry_point: str, commit: str | None, digest: str) -> dict[str, str]:
    """Tags that say which code ran, by whom: MLflow's own, which its pages show, and the digest of the code.

    Args:
        entry_point: as typed: the name of a module, or the path of a script.
        commit: of git, or None outside of a repository.
        digest: of the code as it ran, uncommitted changes included.
    """
    tags = {SOURCE: entry_point, "mlflow.source.type": "LOCAL", "trialfleet.code": digest, USER: _user()}
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


@dataclass
class SingleRunOutcome:
    """Of a single run: `objectives` is set by the training; the rest can be read after the block."""

    objectives: Mapping[str, float] | None = None
    arrived: bool = False  # everything is in MLflow
    problem: str | None = None


@contextlib.contextmanager
def single_run(
    directory: Path,
    destination: Destination,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    poll_interval: float = POLL_SECONDS,
    patience: float = 30.0,
    goes_on: GoesOn = _always,
) -> Iterator[SingleRunOutcome]:
    """Export one training run that belongs to no study; the block is the training.

    The same directory is the same run in MLflow, so a training that is taken up again goes on in it.

    Args:
        directory: the run's own; metrics.jsonl, .hydra/ and artifacts/ in it are exported.
        name: the run's name in MLflow.
        patience: seconds to wait at the end for a tracking server that is slow or away.
        goes_on: whether to go on waiting for it then, see `Exporter.flush`.

    Yields:
        where the training puts its objectives. An exception in the block ends the run FAIL, `Pruned` PRUNED, and one of
        a training that somebody stopped STOPPED, which goes on in the same run if it is taken up again.
    """
    records.create(directory / "run.json", {"uid": uuid4().hex})
    identity = records.read(directory / "run.json") or {}
    study = ExportedStudy(name, identity["uid"], tags=dict(tags or {}), single=True)
    texts = {name: str(value) for name, value in params.items()}
    trial = TrialSnapshot(texts, {}, time.time(), {"1.0": directory.absolute()})
    outcome = SingleRunOutcome()

    def ends(state: TrialState | Stopped, error: str | None = None) -> None:
        nonlocal trial
        objectives = {} if state is TrialState.FAIL else outcome.objectives or {}
        trial = replace(trial, outcome=Outcome(state, time.time(), objectives, error, artifacts_of(directory)))
        exporter.changed(0, ended=True)

    with Exporter(directory, destination, study, poll_interval, read=lambda _number, _ended: trial) as exporter:
        exporter.changed(0)
        try:
            yield outcome
            ends(TrialState.COMPLETE)
        except (Preempted, KeyboardInterrupt):
            ends("STOPPED")
            raise
        except Pruned:
            ends(TrialState.PRUNED)
            raise
        except BaseException as error:
            ends(TrialState.FAIL, f"{type(error).__name__}: {error}")
            raise
        finally:
            outcome.arrived = exporter.flush(patience, goes_on)
            outcome.problem = exporter.problem()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())
