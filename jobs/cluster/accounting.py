"""The database below slurmdbd: a MariaDB of the cluster's own, reached by a socket only."""

from __future__ import annotations

import shlex
from pathlib import Path


def database_command(directory: Path, socket: str, user: str) -> list[str]:
    """A command that runs the server, and makes the database first if there is none."""
    common = ["--no-defaults", f"--datadir={directory}", f"--user={user}"]
    # Who connects by the socket as this user is this user: no password.
    create = ["mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=socket"]
    create += [f"--auth-root-socket-user={user}"]
    serve = ["mariadbd", *common, f"--socket={socket}", "--skip-networking", f"--pid-file={directory}.pid"]
    # Slurm asks for the long lock wait; what a power failure loses does not matter here.
    serve += ["--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"]
    exists = shlex.quote(str(directory / "mysql"))
    return ["sh", "-c", f"test -d {exists} || {shlex.join(create)} && exec {shlex.join(serve)}"]
