"""How a command ends that a person got wrong: a short message, no traceback."""

import os
import sys
from collections.abc import Callable
from typing import Any

from trialfleet.errors import UserError


def shown(command: Callable[[], Any]) -> None:
    """Run a command; what the user can mend is said in words, unless HYDRA_FULL_ERROR asks for the traceback."""
    try:
        command()
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
