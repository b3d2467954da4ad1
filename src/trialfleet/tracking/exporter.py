"""The way of results into MLflow, beside the work: every call returns at once, a thread does the rest.

    exporter = Exporter(folder, target, ExportedStudy(name, uid, {"val/wer": "minimize"}))
    exporter.start()
    exporter.trial_started(42, params={"lr": 0.1}, tags={"trialfleet.attempt": "1"})
    exporter.follow(42, "1.0", folder / "trials/00042/runs/1.0")
    exporter.trial_ended(42, TrialState.COMPLETE, {"val/wer": 0.12})
    exporter.mark_best([42])
    exporter.flush(30)
    exporter.close()

Whatever is said may be said again, also after a restart: nothing is doubled. A tracking server that is away
costs delay only. The exact rules are in `once` (metrics), `cursor` (crashes) and `forwarder` (runs).
"""

import contextlib
import functools
import getpass
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
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
    prepare_environment,
    release,
)
from trialfleet.tracking.study_export import LONGEST_WAIT, NOTE, ExportedStudy, StudyExport, waiting_time
from trialfleet.tracking.trial_export import SOURCE, USER
from trialfleet.trial import records
from trialfleet.trial.result import TrialState
from trialfleet.trial.run import Preempted, Pruned

log = logging.getLogger(__name__)

StudyState = Literal["COMPLETE", "STOPPED", "FAIL"]
POLL_SECONDS = 1.0
HURRIED_WAIT = 2.0  # seconds between two tries while somebody waits in `flush`


@dataclass(frozen=True)
class Link:
    """The ids by which MLflow's pages show a study (or a single run, when there is no study)."""

    experiment_id: str
    parent_run_id: str | None


class Exporter:
    """Forwards one study (or one single run) to MLflow, from one process at a time; any thread may call.

    Args:
        directory: the study's folder, which exists; it holds the exporter's cursor, one per target.
        target: where to, from `target.resolve`.
        study: whose results.
        poll_interval: seconds between two looks at the files of running trials.
        ours: tells whether the study is still ours to forward; once it is not, nothing more is sent.
        rebuild: put what is remembered aside: what MLflow has is found there again, and the rest is sent again.

    Raises:
        OSError: the cursor can not be read or written.
    """

    def __init__(
        self,
        directory: Path,
        target: Destination,
        study: ExportedStudy,
        poll_interval: float = POLL_SECONDS,
        ours: Callable[[], bool] = lambda: True,
        rebuild: bool = False,
    ) -> None:
        self._target = target
        self._interval = poll_interval
        cursor = DeliveryLog(directory / f"mlflow-{target.key}.jsonl", ours)
        if rebuild:
            cursor.forget()
        self._forwarder = StudyExport(cursor, study, self._connect, functools.partial(knows_run, target, study.uid))
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._flush_wanted = 0
        self._flush_done = 0
        self._behind = 0
        self._away: str | None = None
        self._damaged = False
        self._failures = 0
        self._not_before = 0.0  # monotonic seconds
        self._thread = threading.Thread(target=self._work, name="mlflow-exporter", daemon=True)

    def start(self) -> None:
        """Start the thread. MLflow is imported, and its database made, there and when first needed."""
        prepare_environment()
        self._thread.start()

    @property
    def finished(self) -> frozenset[int]:
        """Trials that are in MLflow completely: nothing need be said of them again."""
        return frozenset(list(self._forwarder.cursor.finished))

    def has(self, number: int) -> bool:
        """Whether the trial is in MLflow completely."""
        return number in self._forwarder.cursor.finished

    def on_lost(self, call: Callable[[], None]) -> None:
        """Have `call` called when trials that had arrived are gone in MLflow: it tells of all that `has` denies.

        It is called in the exporter's thread, and may call the exporter.
        """
        self._forwarder.on_lost = call
        if self._forwarder.lost:  # meanwhile
            call()

    def trial_started(
        self,
        number: int,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        started_at: float | None = None,
    ) -> None:
        """There is a trial with these parameters. Said again, only `tags` are brought up to date.

        Args:
            params: logged as str(value), which for floats is the exact repr.
            tags: Slurm job id, attempt, …
            started_at: Unix seconds; now if None.
        """
        at = time.time() if started_at is None else started_at
        texts = {name: str(value) for name, value in params.items()}
        self._call(self._forwarder.start_trial, number, at, texts, dict(tags or {}))

    def trial_tagged(self, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a trial that has not ended, for example the attempt and the Slurm job id of a retry."""
        self._call(self._forwarder.tag, number, dict(tags))

    def follow(self, number: int, run: str, directory: Path) -> None:
        """Forward the lines of `directory`/metrics.jsonl as they come, like those of the trial's other runs.

        Args:
            run: the run's label, `<attempt>.<restart>`.
            directory: need not exist yet.
        """
        self._call(self._forwarder.follow, number, run, directory.absolute())

    def trial_ended(
        self,
        number: int,
        state: TrialState | str,
        objectives: Mapping[str, float] | None = None,
        error: str | None = None,
        tags: Mapping[str, str] | None = None,
        artifacts: Mapping[str, Path] | None = None,
        ended_at: float | None = None,
    ) -> None:
        """The trial's outcome, sent once its lines are there. The first outcome that is said counts.

        Args:
            objectives: metric → value; None or empty if there is no result.
            artifacts: name in MLflow → file or folder, see `artifacts_of`; what does not exist is left out.
            ended_at: Unix seconds; now if None.
        """
        folder = self._forwarder.cursor.path.parent
        ended = {
            "state": TrialState(state).value,
            "at": time.time() if ended_at is None else ended_at,
            "objectives": dict(objectives or {}),
            "error": error,
            "tags": dict(tags or {}),
            "artifacts": {name: os.path.relpath(path, folder) for name, path in (artifacts or {}).items()},
        }
        self._call(self._forwarder.end_trial, number, ended)

    def mark_best(self, numbers: Iterable[int]) -> None:
        """These trials, and no others, bear the mark of the best (several with several objectives)."""
        self._call(self._forwarder.mark_best, list(numbers))

    def describe(self, markdown: str) -> None:
        """The text at the top of the study's page in MLflow."""
        self._call(self._forwarder.tag_study, {NOTE: markdown})

    def study_tagged(self, tags: Mapping[str, str]) -> None:
        """Set tags of the study's own run."""
        self._call(self._forwarder.tag_study, dict(tags))

    def study_ended(self, state: StudyState) -> None:
        """The driver stops: the study is complete, was stopped before its end, or failed."""
        self._call(self._forwarder.end_study, state, time.time())

    def backlog(self) -> int:
        """The number of trials of which something has not reached MLflow, as of the last look."""
        return self._behind + len(self._calls)

    def problem(self) -> str | None:
        """A line for the user, or None: the server is away, or something was refused and left out."""
        if self._away is not None and self._damaged:
            return self._away
        if self._away is not None:
            return f"{self._target.shown}: {self._away}; tried again until it works, nothing is lost"
        problems = [*self._forwarder.problems, *self._forwarder.waiting.values()]
        more = f" (and {len(problems) - 1} more, see the log)" if len(problems) > 1 else ""
        return problems[-1] + more if problems else None

    def link(self) -> Link | None:
        """Where MLflow shows the study, once it is known there."""
        place = self._forwarder.where
        return None if place is None else Link(place.experiment_id, place.parent)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was said and written before is in MLflow.

        Returns:
            False if `timeout` seconds were not enough. Nothing is lost then: the next start goes on.
        """
        with self._wake:
            self._flush_wanted += 1
            mine = self._flush_wanted
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._flush_done >= mine or not self._thread.is_alive(), timeout)
            return self._flush_done >= mine

    def close(self, timeout: float = 20.0) -> None:
        """Stop after the request in work. Does not wait for the rest: see `flush`."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if not self._thread.is_alive():
            self._forwarder.cursor.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        self._calls.append((function, arguments))

    def _connect(self) -> Runs:
        release(self._target)  # connections to a file that was here before
        if self._target.database is not None:
            try:
                database_schema.ensure(self._target.database)
            except DamagedDatabase as error:
                raise Damaged(str(error)) from error
            except (database_schema.SchemaError, OSError) as error:
                raise Away(f"its database can not be made ({error})") from error
        return Runs(self._target)

    def _work(self) -> None:
        while not self._stopping:
            began, flush = time.monotonic(), self._flush_wanted
            idle = self._turn()
            self._behind = 0 if idle else self._forwarder.behind()
            took = time.monotonic() - began
            with self._wake:
                if idle and not self._calls:
                    self._flush_done = flush
                    self._wake.notify_all()
                # at most half of a core, so that dispatch in the same process goes on
                pause = self._interval if self._flush_done == self._flush_wanted else min(0.1, self._interval)
                pause = max(pause, took, self._not_before - time.monotonic())
                if not self._stopping and self._flush_wanted == flush:
                    self._wake.wait(pause)
                if self._flush_wanted > flush:
                    self._not_before = 0.0
                    self._forwarder.hurry()

    def _turn(self) -> bool:
        """Note what was said, then forward. Returns whether nothing is left for now."""
        try:
            self._take_calls()
            if time.monotonic() < self._not_before:
                return False
            idle = self._forwarder.round()
        except NotOurs:
            self._stopping = True
        except (TrackingError, OSError) as error:
            self._rest(str(error), isinstance(error, Damaged))
        except Exception as error:  # a defect in here must neither end the study nor spin
            log.exception("forwarding to MLflow failed")
            self._rest(f"{type(error).__name__}: {error} (a defect, see the log)")
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

    def _take_calls(self) -> None:
        while self._calls:
            function, arguments = self._calls[0]
            try:
                function(*arguments)
            except OSError:  # the disk is full, say: it stays first in line
                raise
            except Exception:
                self._calls.popleft()
                raise
            self._calls.popleft()


def artifacts_of(run_directory: Path) -> dict[str, Path]:
    """What of a run is shown with its trial: the composed config, and the files it put into `artifacts/`."""
    files = sorted((run_directory / "artifacts").glob("*"))
    return {"config.yaml": run_directory / ".hydra" / "config.yaml"} | {path.name: path for path in files}


def code_tags(entry_point: str, commit: str | None, digest: str) -> dict[str, str]:
    """Tags that say which code ran, by whom: MLflow's own, which its pages show, and the digest of the code.

    Args:
        entry_point: as typed: the name of a module, or the path of a script.
        commit: of git, or None outside of a repository.
        digest: of the code as it ran, uncommitted changes included.
    """
    tags = {SOURCE: entry_point, "mlflow.source.type": "LOCAL", "trialfleet.code": digest, USER: _user()}
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


@contextlib.contextmanager
def single_run(
    directory: Path,
    target: Destination,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    poll_interval: float = POLL_SECONDS,
    patience: float = 30.0,
) -> Iterator["SingleRunOutcome"]:
    """Forward one training run that belongs to no study; the block is the training.

    The same directory is the same run in MLflow, so a training that is taken up again goes on in it.

    Args:
        directory: the run's own; metrics.jsonl, .hydra/ and artifacts/ in it are forwarded.
        name: the run's name in MLflow.
        patience: seconds to wait at the end for a tracking server that is slow or away.

    Yields:
        where the training puts its objectives. An exception in the block ends the run FAIL, `Pruned` PRUNED.
    """
    records.create(directory / "run.json", {"uid": uuid4().hex})
    identity = records.read(directory / "run.json") or {}
    study = ExportedStudy(name, identity["uid"], tags=dict(tags or {}), single=True)
    outcome = SingleRunOutcome()
    with Exporter(directory, target, study, poll_interval) as exporter:
        outcome.exporter = exporter
        exporter.trial_started(0, params)
        exporter.follow(0, "1.0", directory)
        try:
            yield outcome
            _end(outcome, directory, TrialState.COMPLETE)
        except Preempted:  # it goes on later: the run stays open
            raise
        except Pruned:
            _end(outcome, directory, TrialState.PRUNED)
            raise
        except BaseException as error:
            _end(outcome, directory, TrialState.FAIL, f"{type(error).__name__}: {error}")
            raise
        finally:
            outcome.arrived = exporter.flush(patience)
            outcome.problem = exporter.problem()


@dataclass
class SingleRunOutcome:
    """Of a single run: `objectives` is set by the training; the rest can be read after the block."""

    objectives: Mapping[str, float] | None = None
    arrived: bool = False  # everything is in MLflow
    problem: str | None = None
    exporter: Exporter | None = None


def _end(outcome: SingleRunOutcome, directory: Path, state: TrialState, error: str | None = None) -> None:
    assert outcome.exporter is not None
    objectives = None if state is TrialState.FAIL else outcome.objectives
    outcome.exporter.trial_ended(0, state, objectives, error, artifacts=artifacts_of(directory))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())
