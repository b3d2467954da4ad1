"""The few things asked of MLflow, and what its errors mean. The only file that imports mlflow.

Importing mlflow takes seconds, so it is imported when a `Runs` is made, in the exporter's own thread.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trialfleet.compat.mlflow import PointsOfFile, forget_database
from trialfleet.tracking.dedup import Row, mlflow_name
from trialfleet.tracking.destination import DamagedDatabase, Destination, damage, file_identity
from trialfleet.tracking.trial_snapshot import DatasetUsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_METRICS = 1000  # a log_batch request
MAX_PAIRS = 100  # parameters or tags a log_batch request
MAX_REQUEST = 400_000  # characters of parameters or tags; MLflow takes a megabyte of JSON
MAX_PARAM = 6000  # characters
MAX_TAG = 8000  # characters
MAX_DIGEST = 36  # characters, of a data set's
PAGE = 1000

# MLflow's own retries are off: urllib3 would send a 'create run' twice without looking whether the first one
# arrived. The exporter retries, after looking. The URL line that MLflow prints at the end of a run and its
# own log handlers would break the terminal's display.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "NOT_FOUND"}
_AWAY = {
    "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "CANCELLED",
}  # fmt: skip
_DAMAGE = ("database disk image is malformed", "file is not a database")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class TrackingError(Exception):
    """MLflow did not do what was asked; whether it did part of it is not known."""


class Away(TrackingError):
    """Nobody could be served just now: no answer, overload, a locked database, a password refused."""


class Refused(TrackingError):
    """MLflow will never take this: asking again is pointless."""


class Unusable(Away):
    """The SQLite file gives errors of its own: the next try must open it anew."""


class Damaged(Unusable):
    """The SQLite file holds something else than MLflow's tables. The text names it and says what to do."""


@dataclass(frozen=True)
class Found:
    """A run that MLflow has."""

    run_id: str
    status: str
    tags: dict[str, str]
    metrics: tuple[str, ...]  # their names
    start: int = 0  # milliseconds since 1970
    params: tuple[str, ...] = ()  # their names


class Runs:
    """A client of one destination. Methods block; all raise Away, Refused or, if unsure, TrackingError.

    Attributes:
        database: which file an SQLite destination is, so that another one in its place is noticed; else None.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.database = file_identity(destination.database)
        self._client = self._call("connecting", _client, destination.uri)
        from mlflow.entities import Metric, Param, RunTag

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._points = self._call("connecting", PointsOfFile.of, self._client, destination.uri)
        self._folders: dict[str, str] = {}  # of artifacts, for the runs made last: MLflow would look each up anew

    def is_current(self) -> bool:
        """False once the SQLite file was moved away, deleted or replaced: then nothing that is sent would be kept."""
        return self.database == file_identity(self._destination.database)

    def existing_experiment(self) -> str | None:
        """The id of the destination's experiment, if there is one."""
        found = self._call("experiment", self._client.get_experiment_by_name, self._destination.experiment)
        return None if found is None else str(found.experiment_id)

    def experiment(self) -> str:
        """The id of the destination's experiment, made if need be, with artifacts beside an SQLite file."""
        name, client = self._destination.experiment, self._client
        found = self._call("experiment", client.get_experiment_by_name, name)
        if found is None:
            database = self._destination.database
            place = (database.parent / "mlartifacts" / _file_name(name)).as_uri() if database else None
            try:
                return self._call("experiment", client.create_experiment, name, place)
            except Refused:  # another driver was quicker
                found = self._call("experiment", client.get_experiment_by_name, name)
        if found is None or found.lifecycle_stage != "active":
            raise Away(f"the MLflow experiment '{name}' was deleted: restore it, or set tracking.experiment")
        return str(found.experiment_id)

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        self._call("tag experiment", self._client.set_experiment_tag, experiment_id, name, value)

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        return dict(self._call("get experiment", self._client.get_experiment, experiment_id).tags)

    def find(self, experiment_id: str, tags: Mapping[str, str]) -> list[Found]:
        """All active runs with these tags, oldest first."""
        # A value can be quoted in two ways, and not at all if it has both kinds of quotation marks: a path may.
        quotable = {name: value for name, value in tags.items() if not {"'", '"', "\\"} & set(value)}
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in quotable.items())
        unquotable = tags.keys() - quotable.keys()
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found: list[Found] = []
        token: str | None = None
        while True:
            search = self._client.search_runs
            page = self._call("search", search, [experiment_id], query, 1, PAGE, order, token)
            found += [run for run in map(_found, page) if all(run.tags.get(key) == tags[key] for key in unquotable)]
            token = page.token
            if not token:
                return found

    def create(self, experiment_id: str, start: int, name: str, tags: Mapping[str, str]) -> str:
        """A new run, started at `start` (ms). After an error look with `find` before asking again."""
        cut = {key: value for batch in batches(tags, MAX_TAG) for key, value in batch.items()}
        run = self._call("create run", self._client.create_run, experiment_id, start, cut, clean(name))
        run_id, uri = str(run.info.run_id), str(run.info.artifact_uri)
        if uri.startswith("file:"):
            self._folders[run_id] = uri
            if len(self._folders) > PAGE:
                del self._folders[next(iter(self._folders))]
        return run_id

    def log(self, run_id: str, rows: Sequence[Row]) -> None:
        """Add points to metrics, up to MAX_METRICS. Points that are there already stay as they are."""
        if self._points is not None:
            try:
                self._call("log metrics", self._points.log, run_id, rows)
            except Away:
                raise
            except TrackingError as error:  # what MLflow itself says of it counts
                log.info("points are sent once more, in MLflow's own way: %s", error)
            else:
                return
        metrics = [self._metric(row.name, row.value, row.time, row.step) for row in rows]
        self._call("log metrics", self._client.log_batch, run_id, metrics=metrics, synchronous=True)

    def set_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Parameters; setting one again to the same value changes nothing, another value is Refused."""
        for batch in batches(params, MAX_PARAM):
            entities = [self._param(name, value) for name, value in batch.items()]
            self._call("log params", self._client.log_batch, run_id, params=entities, synchronous=True)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        for batch in batches(tags, MAX_TAG):
            entities = [self._tag(name, value) for name, value in batch.items()]
            self._call("set tags", self._client.log_batch, run_id, tags=entities, synchronous=True)

    def log_datasets(self, run_id: str, datasets: Sequence[DatasetUsed]) -> None:
        """The data that a run used, as its inputs; one that it has already stays as it is."""
        from mlflow.entities import Dataset, DatasetInput

        inputs = []
        for name, digest, source in datasets:
            short = digest if len(digest) <= MAX_DIGEST else hashlib.sha256(digest.encode()).hexdigest()[:MAX_DIGEST]
            place = json.dumps({"uri": shortened(clean(source), MAX_PARAM)})
            inputs.append(DatasetInput(Dataset(shortened(clean(name), 500), clean(short), "external", place)))
        self._call("log inputs", self._client.log_inputs, run_id, inputs)

    def remove_tag(self, run_id: str, name: str) -> None:
        """Remove a tag; that it is gone already is as good."""
        try:
            self._call("remove tag", self._client.delete_tag, run_id, name)
        except Refused as error:
            if "No tag with name" not in str(error):
                raise

    def rename(self, run_id: str, name: str) -> None:
        self._call("rename run", self._client.update_run, run_id, name=name)

    def reopen(self, run_id: str) -> None:
        """The run goes on: its status is RUNNING again."""
        self._call("set status", self._client.update_run, run_id, status="RUNNING")

    def end(self, run_id: str, status: str, at: int, start: int | None = None) -> None:
        """FINISHED, FAILED or KILLED at the time `at` (ms), but not before its start, whatever the clock did.

        Args:
            start: the run's start in MLflow (ms), if it is known; MLflow is asked otherwise.
        """
        if start is None:
            start = self._call("get run", self._client.get_run, run_id).info.start_time or 0
        self._call("end run", self._client.set_terminated, run_id, status, max(start, at))

    def delete(self, run_id: str) -> None:
        """Hide a run (MLflow keeps it among the deleted ones)."""
        self._call("delete run", self._client.delete_run, run_id)

    def is_active(self, run_id: str, uid: str | None = None) -> bool:
        """Whether MLflow has this run, undeleted, and of the study `uid` if that is given."""
        try:
            run = self._call("get run", self._client.get_run, run_id)
        except Refused:
            return False
        own = uid is None or run.data.tags.get("trialfleet.study_uid") == uid
        return bool(run.info.lifecycle_stage == "active") and own

    def exists(self, run_id: str) -> bool:
        """Whether MLflow has this run, deleted or not."""
        try:
            self._call("get run", self._client.get_run, run_id)
        except Refused:
            return False
        return True

    def metric_names(self, run_id: str) -> tuple[str, ...]:
        """The names of the metrics that a run has."""
        return tuple(self._call("get run", self._client.get_run, run_id).data.metrics)

    def history(self, run_id: str, metrics: Sequence[str]) -> Iterator[tuple[str, int, float]]:
        """(name, step, value) of all points that MLflow has of these metrics."""
        for name in metrics:
            points = self._call("history", self._client.get_metric_history, run_id, name)
            yield from ((name, int(point.step), float(point.value)) for point in points)

    def upload(self, run_id: str, path: Path, folder: str | None) -> None:
        """Copy a file, or what a folder holds, into the run's artifacts, under `folder` there."""
        if run_id in self._folders:
            self._call("upload", _store_in, self._folders[run_id], path, folder)
            return
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._call("upload", send, run_id, str(path), folder)

    def _call(self, what: str, function: "Callable[..., T]", *arguments: Any, **named: Any) -> T:
        try:
            return function(*arguments, **named)
        except Exception as error:
            raise self._meaning(what, error) from error

    def _meaning(self, what: str, error: Exception) -> TrackingError:
        text = self._destination.without_secrets(str(error))
        database = self._destination.database
        if database is not None and "(sqlite3." in text:
            said = next((f"is damaged ({word})" for word in _DAMAGE if word in text), None)
            if wrong := damage(database) or said:
                return Damaged(str(DamagedDatabase(database, wrong)))
            if "disk I/O error" in text:
                return Unusable("disk I/O error")
        code = getattr(error, "error_code", None)
        if code in _REFUSED and type(error).__module__.startswith("mlflow"):
            return Refused(f"{what}: {_brief(text)}")
        # MLflow turns a refused connection and the answers 429, 500, 502, 503, 504 into one kind of error
        unanswered = "API request to" in text and "failed with" in text and "too many 500" not in text
        if code in _AWAY or unanswered or isinstance(error, (ConnectionError, TimeoutError)):
            return Away(_brief(text))
        if "out-of-date database schema" in text:
            return Away(f"{self._destination.shown} is of an older MLflow: run `mlflow db upgrade` on it")
        return TrackingError(f"{what}: {_brief(text)}")


def prepare_environment() -> None:
    """Set MLflow's environment for this process where the user has not set it. Cheap; imports nothing."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
            logger.propagate = False


def release(destination: Destination) -> None:
    """Close this process's connections to an SQLite file: MLflow keeps them for good, to whatever file was there."""
    if destination.database is not None:
        forget_database(destination.uri)


def clean(text: str) -> str:
    """`text` in characters that every store takes: no NUL, no half of a pair of surrogates."""
    return _UNSTORABLE.sub("\ufffd", text)


def shortened(value: str, limit: int) -> str:
    """`value`, cut to `limit` characters with a note that says so."""
    note = f" … [cut: {len(value)} characters in all]"
    return value if len(value) <= limit else value[: limit - len(note)] + note


def param_name(name: str) -> str:
    """`name` in the letters that MLflow takes (`model@encoder` has one that it does not)."""
    return mlflow_name(name.strip("/"))


def batches(pairs: Mapping[str, str], limit: int) -> Iterator[dict[str, str]]:
    """`pairs` in requests that MLflow takes: names in its letters, values cut to `limit` characters.

    Of names that become the same only the first keeps it: the others get a number, lest MLflow refuses them all.
    """
    batch: dict[str, str] = {}
    taken: set[str] = set()
    size = 0
    for raw, value in pairs.items():
        name = _untaken(param_name(raw), taken)
        cut = clean(shortened(value, limit))
        cost = len(name) + len(cut.encode("ascii", "backslashreplace"))
        if batch and (len(batch) == MAX_PAIRS or size + cost > MAX_REQUEST):
            yield batch
            batch, size = {}, 0
        batch[name] = cut
        size += cost
    if batch:
        yield batch


def _untaken(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name[:240]}_{number}"
    taken.add(found)
    return found


def _found(run: "Run") -> Found:
    info, data = run.info, run.data
    return Found(info.run_id, info.status, data.tags, tuple(data.metrics), info.start_time or 0, tuple(data.params))


def load() -> None:
    """Import MLflow's client, which takes seconds, ahead of its use."""
    import mlflow  # noqa: F401


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _store_in(uri: str, path: Path, folder: str | None) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository: Any = get_artifact_repository(uri)
    send = repository.log_artifacts if path.is_dir() else repository.log_artifact
    send(str(path), folder)


def _brief(text: str) -> str:
    """The cause in a line: MLflow's messages hold whole exceptions in exceptions."""
    if "API request to" in text and "failed with exception" in text:
        number = re.search(r"\[Errno -?\d+\] [^'\")\]]+", text)
        known = (word for word in ("timed out", "Connection aborted", "Connection reset") if word in text)
        cause = number.group().partition("] ")[2].strip() if number else next(known, "no connection")
        return f"the tracking server does not answer: {cause}"
    return " ".join(text.partition("[SQL:")[0].split())[:300]  # a statement has the time in it, and is news each time


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.\-]", "_", name).strip(".") or "experiment"
