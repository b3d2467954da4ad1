"""The end of a command's interpreter, made short."""

import atexit
import gc

from trialfleet.trial import open_files


def look_once() -> None:
    """Have objects that nobody refers to looked for once when the interpreter ends.

    It does so several times in all that is there. With MLflow and pandas imported that takes most of a second, which
    whoever waits for a short study waits for, too.
    """
    atexit.unregister(_collect_and_keep)
    atexit.register(_collect_and_keep)


def _collect_and_keep() -> None:
    gc.collect()
    open_files.flush_all()  # one that is part of a cycle will not be looked for
    gc.freeze()
