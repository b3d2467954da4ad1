"""What all entry points share: flags that Hydra does not have, and errors that a person can read."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError


def main(entry: Callable[[], Any]) -> None:
    """Run a Hydra entry point: short messages for what the user can mend, tracebacks for what we must."""
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    _own_flags()
    full = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves the formatting of errors to us
    try:
        entry()
    except (UserError, CompactHydraException, OmegaConfBaseException) as error:
        if full:
            raise
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        print(f"error: {error}{cause}", file=sys.stderr)
        sys.exit(2)
    finally:
        if not full:
            del os.environ["HYDRA_FULL_ERROR"]


def _own_flags() -> None:
    """--dry-run is an override; --info config-groups is ours: Hydra knows neither."""
    if "--dry-run" in sys.argv:
        sys.argv[sys.argv.index("--dry-run")] = "dry_run=true"
    for index, word in enumerate(sys.argv):
        if word == "--info=config-groups" or (
            word == "--info" and sys.argv[index + 1 : index + 2] == ["config-groups"]
        ):
            _show_groups(conf_directory())
            sys.exit(0)


def _show_groups(conf: Path) -> None:
    """Each config group with its members, as they are named on the command line."""
    for folder in sorted(path for path in conf.rglob("*") if path.is_dir()):
        members = sorted(path.stem for path in folder.glob("*.yaml"))
        if members:
            print(f"{folder.relative_to(conf)}: {', '.join(members)}")
