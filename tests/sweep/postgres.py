"""A PostgreSQL of a test's own, on a port of this machine's loopback, which the test may stop and start."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage

from jobs.cluster import packages
from jobs.cluster.errors import Unavailable
from jobs.cluster.processes import wait_until
from trialfleet.sweep.study.fencing import database_of

PATIENCE = 60.0  # seconds; only a hang takes so long, however busy the machine is
_PROGRAMS = ("initdb", "postgres", "pg_isready")


def install_or_skip() -> Path:
    """The folder of PostgreSQL's programs, which are installed if they are missing and this is root on a Debian."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'trialfleet[postgres]'")
    if (found := _programs()) is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.skip("PostgreSQL is not installed, and only root of a Debian can: apt-get install postgresql")
    try:
        packages.apt_get("update")
        packages.apt_get("install", "--yes", "--no-install-recommends", "postgresql")
    except Unavailable as error:
        pytest.skip(str(error))
    found = _programs()
    assert found is not None
    return found


def _programs() -> Path | None:
    # Debian keeps them out of PATH, by version.
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    return next((folder for folder in folders if all((folder / name).exists() for name in _PROGRAMS)), None)


class Postgres:
    """A server with one database, `postgres`, and one user, `tester`.

    Attributes:
        url: its address as Optuna takes it.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as_user: dict[str, object] = {}  # PostgreSQL refuses to run as root
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://tester@127.0.0.1:{self._port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", "data", "-U", "tester", "-A", "trust", "-N", "--no-instructions")

    def start(self) -> None:
        """Returns once it answers."""
        options = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": "", "fsync": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with open(self._folder / "log", "ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", "data", *settings],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._as_user,  # type: ignore[call-overload]
            )
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        up = wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, PATIENCE)
        assert up, (self._folder / "log").read_text()

    def stop(self) -> None:
        """Throw everybody out and end, as a restart of the service does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(PATIENCE)
            self._server = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, **self._as_user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def running_or_skip() -> Iterator[Postgres]:
    """A server that runs for the length of a block."""
    programs = install_or_skip()
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # the test's own folders are closed to other users
        server = Postgres(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def closed_after(storage: BaseStorage) -> Iterator[BaseStorage]:
    """A storage whose connections are closed with the block: psycopg warns of those that nobody closed."""
    try:
        yield storage
    finally:
        database = database_of(storage)
        assert database is not None
        database.remove_session()
        database.engine.dispose()
