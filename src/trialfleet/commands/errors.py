"""How a command ends that a person got wrong: a short message, no traceback."""

import os
import sys
from collections.abc import Callable
from typing import Any

from trialfleet.errors import UserError


def shown(command: Callable[[], Any]) -> None:
    """Run a command; what the user can mend is said in words, unless HYDRA_FULL_ERROR asks for the traceback."""
    full = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
    try:
        command()
        sys.stdout.flush()  # here, and not where Python ends and nobody catches what goes wrong
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        if full:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
