"""MLflow's own pages on the results, served on this machine only, with links that lead to the studies."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from trialfleet.errors import UserError
from trialfleet.tracking import views
from trialfleet.tracking.destination import DamagedDatabase, Destination, damage
from trialfleet.tracking.mlflow_runs import Damaged, Runs, TrackingError, prepare_environment
from trialfleet.tracking.study_export import DIRECTION, OBJECTIVE
from trialfleet.tracking.trial_export import KIND, STATE, STUDY, UID

HOST = "127.0.0.1"  # MLflow asks nobody for a password: not for other machines
PORTS_TO_TRY = 20
START_SECONDS = 120.0
STOP_SECONDS = 10.0
# One worker, and none of the ten processes that MLflow starts for the evaluation of language models.
LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class StudyPages:
    """A study's name, how it stands (None: not ended), and what there is to look at → its address."""

    name: str
    state: str | None
    links: dict[str, str]


def check(destination: Destination) -> None:
    """Raises:
    UserError: there is nothing to show yet, or the database is damaged.
    """
    database = destination.database
    if database is None:
        return
    wrong = damage(database)
    if wrong is not None:
        raise DamagedDatabase(database, wrong)
    if not (database.exists() and database.stat().st_size > 0):
        fix = "run a study first, or say where it is: tracking.uri=sqlite:///PATH"
        raise UserError(f"there are no results yet: {database} does not exist", fix)


def choose_port(wanted: int | None, first: int = 5000) -> int:
    """`wanted` if it is given and free, else the first free one from `first` on.

    Raises:
        UserError: it is taken.
    """
    if wanted is not None:
        if not 0 < wanted < 65536:
            raise UserError(f"--port {wanted}: is no port", "give a number from 1 to 65535")
        if not _is_free(wanted):
            raise UserError(f"port {wanted} is in use", "choose another one with --port, or leave that out")
        return wanted
    for port in range(first, first + PORTS_TO_TRY):
        if _is_free(port):
            return port
    raise UserError(f"ports {first} to {first + PORTS_TO_TRY - 1} are in use", "choose one with --port")


@contextlib.contextmanager
def serve(destination: Destination, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server for the length of the block, in a process group of its own that ends with the block.

    Raises:
        UserError: it does not come up; with its last words.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    if destination.database is not None:
        command += ["--artifacts-destination", str(destination.database.parent / "mlartifacts")]
    environment = {**os.environ, **LIGHT, "MLFLOW_BACKEND_STORE_URI": destination.uri}  # passwords show in `ps`
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_up(server, port, destination, output)
            yield server
        finally:
            _stop(server)


def studies(destination: Destination, base: str) -> list[StudyPages]:
    """All studies of the destination's experiment, the newest first, with links under `base`.

    Raises:
        TrackingError: MLflow can not be asked.
    """
    prepare_environment()
    runs = Runs(destination)
    experiment_id = runs.existing_experiment()
    if experiment_id is None:
        return []
    found = runs.find(experiment_id, {KIND: "study"})
    tags = runs.experiment_tags(experiment_id)
    pages = []
    for run in reversed(found):
        metrics = [name for name in run.tags.get(OBJECTIVE, "").split(",") if name]
        objectives = dict(zip(metrics, run.tags.get(DIRECTION, "").split(","), strict=False))
        uid, name = run.tags[UID], run.tags[STUDY]
        page = views.Page(name, uid, experiment_id, run.run_id, objectives)
        links = views.links(base, page, views.tag_name(uid) in tags)
        pages.append(StudyPages(name, run.tags.get(STATE), links))
    return pages


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, destination: Destination, output: IO[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    output.seek(0)
    words = destination.without_secrets(output.read().decode(errors="replace")).splitlines()[-8:]
    wrong = None if destination.database is None else damage(destination.database)
    if destination.database is not None and wrong is not None:
        raise DamagedDatabase(destination.database, wrong)
    raise UserError("MLflow's server does not start:\n" + "\n".join(words), f"look at {destination.shown}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # the group is gone already
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        if not _group_exists(server.pid):
            return


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def report(destination: Destination, base: str, shown: int = 10, answers: bool = False) -> str:
    """What the user is told: where MLflow is, and the links of the newest studies.

    Args:
        answers: whether it is an error if nobody answers there.

    Raises:
        UserError: the database is damaged, or the server does not answer.
    """
    lines = [f"MLflow is at {base}   (results: {destination.shown})"]
    try:
        pages = studies(destination, base)
    except Damaged as error:
        raise UserError(str(error)) from error
    except TrackingError as error:
        if answers:
            raise UserError(
                f"{base} does not answer: {error}", "start MLflow's server, or correct the address"
            ) from error
        return "\n".join([*lines, f"its studies can not be listed: {error}"])
    if not pages:
        return "\n".join([*lines, f"there is no study in the experiment '{destination.experiment}' yet"])
    for page in pages[:shown]:
        lines += ["", f"{page.name}  ({(page.state or 'running').lower()})"]
        width = max(len(what) for what in page.links)
        lines += [f"  {what:<{width}}  {address}" for what, address in page.links.items()]
    if len(pages) > shown:
        lines += ["", f"and {len(pages) - shown} older studies: see 'Views' there"]
    return "\n".join(lines)
