"""A database that MLflow finds ready: its tables take seconds to make, which are no part of what is measured."""

import shutil
import sys
from pathlib import Path

from benchmarks.turns import seconds


def make(path: Path) -> Path:
    """Make one with nothing in it; its path."""
    make = "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_experiment('asr')"
    seconds([[sys.executable, "-c", make, f"sqlite:///{path}"]], path.with_suffix(".log"))
    return path


def copied(empty: Path | None, folder: Path) -> str | None:
    """The address of a copy for a study alone, beside its folder; of none there is none."""
    if empty is None:
        return None
    own = folder.with_suffix(".db")
    shutil.copy(empty, own)
    return f"sqlite:///{own}"
