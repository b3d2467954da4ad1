"""Where conf/ is: beside src/, in a checkout, an editable install or a study's snapshot of the code."""

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
