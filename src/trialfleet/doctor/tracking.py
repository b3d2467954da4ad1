"""Whether MLflow can be reached and written. Nothing is made there.

MLflow is asked in a process of its own: importing it takes seconds, and it changes the logging of its process.
"""

import json
import os
import shlex
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trialfleet.doctor import databases
from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Finding, fail, ok
from trialfleet.tracking import destination as destinations
from trialfleet.tracking.destination import Destination

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_NAME = "mlflow"
HEALTH_SECONDS = 5.0
MLFLOW_SECONDS = 60.0
_LATER = "until then a study goes on, and sends its results later"
_REVISION = "from trialfleet.compat.mlflow import latest_revision; print(latest_revision())"
# The address comes by stdin, since it may hold a password.
_EXPERIMENT = """
import json, sys
from mlflow import MlflowClient
uri, name = json.load(sys.stdin)
found = MlflowClient(uri).get_experiment_by_name(name)
print(found.lifecycle_stage if found else "")
"""


def look(asked: Asked) -> Iterator[Finding]:
    if not asked.tracking_uri:
        yield ok(_NAME, "is switched off: hydra.sweeper.tracking.uri is null")
        return
    destination = destinations.resolve(asked.tracking_uri, asked.experiment, Path.cwd())
    scheme = urlsplit(destination.uri).scheme.partition("+")[0]
    if destination.database is not None:
        yield from _sqlite(destination, destination.database)
    elif scheme in destinations.DATABASE_DRIVERS:
        yield from _database(destination, destination.uri)
    elif scheme in ("http", "https") and (refusal := _no_answer(destination.uri)) is not None:
        yield fail(_NAME, f"{destination.shown}: {refusal}", f"start it, or name another with tracking.uri; {_LATER}")
    else:
        yield _experiment_by_client(destination)


# -------------------------------------------------------------------- databases


def _sqlite(destination: Destination, file: Path) -> Iterator[Finding]:
    if not file.exists() or file.stat().st_size == 0:
        yield ok(_NAME, f"{file}: is to be made, with experiment {destination.experiment!r}")
    elif (damage := destinations.damage(file)) is not None:
        yield fail(_NAME, f"{file} {damage}", "move it away: nothing is lost, and all results are sent anew")
    elif (refusal := databases.sqlite_refusal(file)) is not None:
        yield fail(_NAME, refusal, f"end what holds it, or make it writable; {_LATER}")
    else:
        yield from _database(destination, f"sqlite:///{file}")


def _database(destination: Destination, address: str) -> Iterator[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with databases.connected(address) as connection:
            yield _tables(destination, connection)
    except SQLAlchemyError as error:
        lines = str(getattr(error, "orig", None) or error).splitlines()
        said = destination.without_secrets(lines[0] if lines else type(error).__name__)
        yield fail(_NAME, f"{destination.shown}: {said}", f"start it, or correct tracking.uri; {_LATER}")


def _tables(destination: Destination, connection: "Connection") -> Finding:
    shown, experiment = destination.shown, destination.experiment
    if databases.read_only(connection):
        return fail(_NAME, f"{shown}: is read-only, a standby for example", "name the server that takes writes")
    if "alembic_version" not in databases.tables(connection):
        return ok(_NAME, f"{shown}: opens; MLflow's tables are to be made, with experiment {experiment!r}")
    revision = databases.value(connection, "SELECT version_num FROM alembic_version")
    latest = _mlflow(_REVISION)
    if revision != latest:
        found = f"{shown}: its tables have revision {revision}, and the installed MLflow works with {latest}"
        fix = f"copy the database, then: mlflow db upgrade {shlex.quote(shown)}; or install the MLflow that it is of"
        return fail(_NAME, found, fix)
    stage = databases.value(connection, "SELECT lifecycle_stage FROM experiments WHERE name = :name", name=experiment)
    return _experiment(f"{shown}: opens, its tables are up to date", experiment, stage)


def _experiment(found: str, experiment: str, stage: str | None) -> Finding:
    if stage is None:
        return ok(_NAME, f"{found}; experiment {experiment!r} is to be made")
    if stage != "active":
        fix = "restore it in MLflow, or name another with tracking.experiment"
        return fail(_NAME, f"{found}; experiment {experiment!r} is {stage}", fix)
    return ok(_NAME, f"{found}; experiment {experiment!r} is there")


# -------------------------------------------------------------------- servers


def _no_answer(uri: str) -> str | None:
    """Why a server cannot be reached, in words; None if it answers, be it that it refuses."""
    address = urlsplit(uri)
    place = address._replace(netloc=address.netloc.rpartition("@")[2], query="", fragment="")
    health = place._replace(path=f"{place.path.rstrip('/')}/health").geturl()
    try:
        with urllib.request.urlopen(health, timeout=HEALTH_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"answers {error.code} {error.reason}" if error.code >= 500 else None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return None  # MLflow's client has settings of its own for certificates, and judges itself
        return f"cannot be reached: {error.reason}"
    except (TimeoutError, OSError) as error:
        return f"cannot be reached: {error or 'no answer in time'}"


def _experiment_by_client(destination: Destination) -> Finding:
    try:
        said = _mlflow(_EXPERIMENT, json.dumps([destination.uri, destination.experiment]))
    except subprocess.CalledProcessError as error:
        lines = [line for line in str(error.stderr).splitlines() if line.strip()]
        found = destination.without_secrets(lines[-1] if lines else "MLflow's client does not say why")
        fix = f"correct tracking.uri, or the user and password (MLFLOW_TRACKING_USERNAME, …); {_LATER}"
        return fail(_NAME, f"{destination.shown}: answers, but: {found}", fix)
    return _experiment(f"{destination.shown}: answers", destination.experiment, said or None)


def _mlflow(program: str, given: str = "") -> str:
    """What a program prints that uses MLflow.

    Raises:
        subprocess.SubprocessError: it fails, or takes too long.
    """
    from trialfleet.tracking.mlflow_runs import ENVIRONMENT

    command = [sys.executable, "-c", program]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=MLFLOW_SECONDS, check=True, env=environment
    )
    return done.stdout.strip()
