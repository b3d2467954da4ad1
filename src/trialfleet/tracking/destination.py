"""Where results go: the tracking URI, checked before anything starts, without importing MLflow (seconds)."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trialfleet.errors import UserError

DATABASE_DRIVERS = {
    "postgresql": ("psycopg", "psycopg2"),
    "mysql": ("pymysql", "MySQLdb", "mysql.connector"),
    "mssql": ("pyodbc", "pymssql"),
}
NETWORK_FILE_SYSTEMS = {
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs",
    "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs",
}  # fmt: skip
_SQLITE = b"SQLite format 3\0"
_SET = "set hydra.sweeper.tracking.uri (or MLFLOW_TRACKING_URI) to "
_SQLITE_FIX = _SET + "sqlite:///PATH/mlflow.db in a folder you can write"
_ANY_FIX = _SET + "sqlite:///mlflow.db, http://HOST:PORT or a database URL"


@dataclass(frozen=True)
class Destination:
    """An MLflow experiment at a tracking URI.

    Attributes:
        uri: as MLflow takes it; SQLite paths are absolute. May hold a password: show `shown` instead.
        experiment: the MLflow experiment, a container of studies.
        database: the SQLite file, or None for anything that is not SQLite.
    """

    uri: str
    experiment: str
    database: Path | None = None

    @property
    def shown(self) -> str:
        """The URI with its password masked, for messages, tags and records."""
        return masked(self.uri)

    @property
    def key(self) -> str:
        """Eight characters that tell destinations apart in file names; the password is not part of it."""
        return hashlib.sha256(f"{self.shown}\n{self.experiment}".encode()).hexdigest()[:8]

    def without_secrets(self, text: str) -> str:
        """`text`, say a library's error message, with this destination's password masked wherever it stands."""
        password = urlsplit(self.uri).password
        for secret in {self.uri: self.shown, password: "***", unquote(password or ""): "***"}.items():
            text = text.replace(secret[0], secret[1]) if secret[0] else text
        return text


class DamagedDatabase(UserError):
    """MLflow's SQLite file holds something else. Nothing is lost by that, and the message says what to do.

    Args:
        database: the file.
        what: what is wrong with it, as the end of a sentence that starts with its name.
    """

    def __init__(self, database: Path, what: str) -> None:
        fix = f"move it away ({_family(database)}), and everything is sent anew, or put a copy of it back"
        super().__init__(f"{database} {what}; nothing is lost, the study's folder holds all results", fix)

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}"


def resolve(uri: str, experiment: str, directory: Path, begun: bool = False) -> Destination:
    """The destination that the settings mean, refused at once if nothing could ever be written there.

    A server that does not answer is no reason to refuse: that costs delay only, and may be over in a minute.

    Args:
        uri: `tracking.uri`; a relative SQLite path means one in `directory`.
        experiment: `tracking.experiment`.
        directory: the folder in which the command was typed.
        begun: results go there already: then a file that is damaged is no reason to leave the study alone.

    Raises:
        UserError: the URI is nonsense, its driver is not installed, or its file can not be written.
    """
    if not experiment.strip():
        raise UserError("tracking.experiment is empty", "give the MLflow experiment a name, say 'trialfleet'")
    if uri.startswith("sqlite:"):
        database = _sqlite_path(uri, directory)
        if not (begun and database.exists()):
            _check_database(uri, database)
        query = urlsplit(uri).query
        return Destination(f"sqlite:///{database}" + (f"?{query}" if query else ""), experiment, database)
    check(uri)
    return Destination(uri, experiment)


def check(uri: str) -> None:
    """Refuse a tracking URI that can not work, in milliseconds.

    Raises:
        UserError: naming what is wrong with the URI and what to set instead.
    """
    scheme = uri.partition(":")[0].lower() if ":" in uri or uri == "databricks" else ""
    kind = scheme.partition("+")[0]
    if not uri.strip():
        raise UserError("tracking.uri is empty", _ANY_FIX)
    if scheme == "sqlite":
        _check_database(uri, _sqlite_path(uri, Path.cwd()))
    elif scheme in ("", "file"):
        raise UserError(f"tracking.uri={uri}: MLflow 3 has removed its file store (./mlruns)", _SQLITE_FIX)
    elif scheme in ("http", "https"):
        _check_address(uri)
    elif kind in DATABASE_DRIVERS:
        _check_driver(uri, kind, scheme.partition("+")[2])
    elif scheme != "databricks" and scheme not in _plugins():
        raise UserError(f"tracking.uri={masked(uri)}: MLflow knows no '{scheme}'", _ANY_FIX)


def damage(database: Path) -> str | None:
    """What is wrong with an SQLite file, as far as a quick look tells; None if nothing is, or there is no file."""
    try:
        if database.is_dir():
            return "is a folder"
        if not database.exists() or database.stat().st_size == 0:
            return None
        with database.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        return f"can not be read ({error.strerror})"
    if not header.startswith(_SQLITE):
        return "is not an SQLite database"
    if database.stat().st_size < _bytes_promised(header) and not _has_log(database):
        return "is cut short: a part of the SQLite database is missing"
    return _damage_inside(database)


def file_identity(path: Path | None) -> str | None:
    """What tells a file from another one that is put in its place; None if there is none."""
    try:
        return None if path is None else str(path.stat().st_ino)
    except OSError:
        return None


def sidecars(database: Path) -> list[Path]:
    """What SQLite keeps beside a file. They belong to this file: another one in its place would be spoilt by them."""
    return [path for suffix in ("-wal", "-shm", "-journal") if (path := _beside(database, suffix)).exists()]


def masked(uri: str) -> str:
    """`uri` with the password in it, if any, shown as ***."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)


def on_network_file_system(path: Path) -> bool:
    """Whether `path` lies on a file system shared with other machines, where SQLite's WAL fails."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux: WAL is safe on the local disks that such machines have
        return False
    place, best, kind = str(path.resolve()), "", ""
    for mount in mounts:
        fields = mount.split(" ")
        point = fields[1].replace("\\040", " ")
        if len(point) >= len(best) and (place == point or place.startswith(point.rstrip("/") + "/")):
            best, kind = point, fields[2]
    return kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs")


def _sqlite_path(uri: str, directory: Path) -> Path:
    text = uri.removeprefix("sqlite:").partition("?")[0]
    if not text.startswith("///") or text in ("///", "///:memory:"):
        raise UserError(f"tracking.uri={uri} names no file, so that nothing would be kept", _SQLITE_FIX)
    path = directory / text[3:]
    return path.parent.resolve() / path.name


def _check_database(uri: str, path: Path) -> None:
    if path.is_dir():
        raise UserError(f"tracking.uri={uri}: {path} is a folder", _SQLITE_FIX)
    if path.exists():
        _check_is_sqlite(uri, path)
    place = path if path.exists() else next(parent for parent in path.parents if parent.exists())
    writable = os.access(place, os.W_OK) and (place == path or (place.is_dir() and _can_hold_files(place)))
    if not writable:
        raise UserError(f"tracking.uri={uri}: {place} can not be written", _SQLITE_FIX)


def _can_hold_files(folder: Path) -> bool:
    # access(2) says yes to root everywhere; these two never hold a database
    return not str(folder.resolve()).startswith(("/proc", "/sys"))


def _check_is_sqlite(uri: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(16)
    except OSError as error:
        raise UserError(f"tracking.uri={uri}: can not be read ({error.strerror})", _SQLITE_FIX) from error
    if header and header != _SQLITE:
        fix = f"if it was one, nothing is lost: move it away, and all results are sent anew; or {_SQLITE_FIX}"
        raise UserError(f"tracking.uri={uri}: {path} is not an SQLite database", fix)


def _bytes_promised(header: bytes) -> int:
    """The size that an SQLite file should have, from its header (https://www.sqlite.org/fileformat.html, 1.3)."""
    size = int.from_bytes(header[16:18], "big")
    trusted = header[24:28] == header[92:96]
    return (65536 if size == 1 else size) * int.from_bytes(header[28:32], "big") if trusted else 0


def _has_log(database: Path) -> bool:
    """Whether there is a log, of what the file itself lacks, or of what is just being written into it."""
    logs = (_beside(database, "-wal"), _beside(database, "-journal"))
    return any(log.exists() and log.stat().st_size > 0 for log in logs)


def _damage_inside(database: Path) -> str | None:
    try:
        connection = _read_only(database)
        try:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in tables:
                connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError:  # in use, say: that is no damage
        return None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return f"is damaged ({error})"
    return None


def _read_only(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)


def _beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def _family(database: Path) -> str:
    """The file with what SQLite keeps beside it, as one types it."""
    names = [database, *sidecars(database)]
    return "mv " + " ".join(shlex.quote(str(name)) for name in names) + " ELSEWHERE"


def _check_address(uri: str) -> None:
    try:
        address = urlsplit(uri)
        valid = bool(address.hostname) and (address.port is None or address.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"tracking.uri={masked(uri)} names no server", "write it as http://HOST:PORT")


def _check_driver(uri: str, kind: str, driver: str) -> None:
    modules = (driver,) if driver else DATABASE_DRIVERS[kind]
    if not any(_installed(module) for module in modules):
        missing = " or ".join(modules)
        fix = f"pip install {modules[0]} in this environment, or give the address of a tracking server"
        raise UserError(f"tracking.uri={masked(uri)} needs {missing}, which is not installed", fix)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def _plugins() -> set[str]:
    return {point.name for point in importlib.metadata.entry_points(group="mlflow.tracking_store")}


def knows_run(destination: Destination, uid: str, run_id: str, database: str | None = None) -> bool:
    """Whether it is plain, without MLflow, that a run of a study is there, undeleted: an SQLite file is asked.

    Args:
        uid: the study's.
        database: `file_identity` of the file that it was sent to; None if that is not known.

    Returns:
        False if the run is not there, or if only MLflow can tell.
    """
    if destination.database is None or database not in (None, file_identity(destination.database)):
        return False
    try:
        connection = _read_only(destination.database)
        try:
            query = "SELECT 1 FROM runs JOIN tags USING (run_uuid) WHERE run_uuid = ? AND lifecycle_stage = 'active'"
            query += " AND key = 'trialfleet.study_uid' AND value = ?"
            return connection.execute(query, (run_id, uid)).fetchone() is not None
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False
