"""Where conf/ is: beside pipelines/, in a checkout, an editable install or a study's snapshot of the code."""

from importlib.util import find_spec
from pathlib import Path

from trialfleet.errors import UserError


def project_directory() -> Path:
    """The folder that holds conf/, pipelines/ and jobs/.

    Raises:
        UserError: pipelines/ is there without conf/.
    """
    spec = find_spec("pipelines")
    if spec is None or spec.origin is None:
        raise UserError("the package 'pipelines' cannot be found", "install the project: pip install -e .")
    directory = Path(spec.origin).resolve().parents[1]
    if not (directory / "conf").is_dir():
        raise UserError(f"{directory / 'conf'}: is missing", "run from a checkout of the project (pip install -e .)")
    return directory


def conf_directory() -> Path:
    return project_directory() / "conf"
