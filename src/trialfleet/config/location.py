"""Where conf/ is, beside src/, also in a study's snapshot of the code; and which path a text means."""

import os
from pathlib import Path

from trialfleet.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def project_directory() -> Path:
    """The folder that holds src/, conf/ and the commands that people type, found from where this package lies.

    Never by the name of one of them: a user may have folders of these names.

    Raises:
        UserError: the package was not installed from a checkout.
    """
    directory = _PACKAGE.parents[1]
    if not (directory / "conf" / "config.yaml").is_file():
        raise UserError(f"{directory / 'conf'}: is missing", "run from a checkout of the project (pip install -e .)")
    return directory


def conf_directory() -> Path:
    return project_directory() / "conf"


def expanded(path: str | Path) -> Path:
    """The path with the home that ~ stands for. Where nobody has that home it stays, so that it is a path of nothing.

    Path.expanduser raises a RuntimeError there, which no reader of a file expects.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
