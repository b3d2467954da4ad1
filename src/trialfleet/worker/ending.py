"""The end of a job's process: at once, whatever the task left behind."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from trialfleet.trial import open_files

EXIT_SECONDS = 5.0  # how long the task's exit handlers may take
GOODBYE_SECONDS = 25.0  # how long the processes of a training may take to part, see jax.distributed.shutdown
CHILDREN_SECONDS = 2.0  # how long what the task left running has after SIGTERM


def end_process(code: int) -> None:
    """End this process now, with whatever it started.

    The interpreter's own way out waits for threads and runs what a task registered: either may hang, and the job
    would go on to its time limit after its trial has ended.
    """
    try:
        for step in (_flush_output, _flush_errors, _run_exit_handlers, _part_from_others, end_children):
            with contextlib.suppress(BaseException):  # whatever state the task left us, what comes next must not suffer
                step()
    finally:
        os._exit(code)


def _flush_output() -> None:
    sys.stdout.flush()  # not to be asked for earlier than in its turn: the task may have set it to None


def _flush_errors() -> None:
    sys.stderr.flush()


def _run_exit_handlers() -> None:
    """What the task registered for the end, and the files that it left open, get a few seconds: no more."""

    def run() -> None:
        atexit._run_exitfuncs()  # no public name runs them before the interpreter's own way out
        open_files.flush_all()

    handlers = threading.Thread(target=run, daemon=True)
    handlers.start()
    handlers.join(EXIT_SECONDS)


def _part_from_others() -> None:
    """Say goodbye to the other processes of a training, which would call us lost otherwise."""
    distributed = getattr(sys.modules.get("jax"), "distributed", None)
    if distributed is not None and distributed.is_initialized():
        goodbye = threading.Thread(target=distributed.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE_SECONDS)


def end_children(but_for: Sequence[bytes] = ()) -> None:
    """End the processes that the task started and left running: first asked, then killed.

    Args:
        but_for: words of the command lines of those that stay.
    """
    if not _has_children():
        return
    import psutil

    children = [one for one in psutil.Process().children(recursive=True) if not _says(one.pid, but_for)]
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, CHILDREN_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _says(pid: int, words: Sequence[bytes]) -> bool:
    if not words:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(word in command for word in words)


def _has_children() -> bool:
    """Whether there may be any. Told without psutil, whose import takes longer than most jobs take to end."""
    try:
        return any(Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:  # a thread ended while we looked
        return True
