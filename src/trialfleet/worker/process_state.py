"""What a task may change of its process, kept when it is as new and put back for the next trial.

Modules stay imported, and what they hold stays with them: that is what a process is kept for. Everything that a process
begins with and that code outside of the task goes by is put back.
"""

import contextlib
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import Any

_KEPT_CHILDREN = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")  # the library's own, for all


@dataclass
class _Logger:
    level: int
    handlers: list[logging.Handler]
    filters: list[Any]
    propagate: bool
    disabled: bool

    @classmethod
    def of(cls, logger: logging.Logger) -> "_Logger":
        return cls(logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled)

    def put_back(self, logger: logging.Logger) -> None:
        for handler in list(logger.handlers):
            if handler not in self.handlers:
                logger.removeHandler(handler)
                _close(handler)
        logger.handlers[:], logger.filters[:] = self.handlers, self.filters
        logger.propagate, logger.disabled = self.propagate, self.disabled
        logger.setLevel(self.level)


class ProcessState:
    """A process as it is now: after its task was imported and before it runs for the first time."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._folder = os.getcwd()  # noqa: PTH109  # a text, as chdir wants it
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._path, self._arguments = list(sys.path), list(sys.argv)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook)
        self._trace = (sys.gettrace(), sys.getprofile())
        self._recursion, self._collects = sys.getrecursionlimit(), gc.isenabled()
        self._locale = locale.setlocale(locale.LC_ALL)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self._filters, self._show = list(warnings.filters), warnings.showwarning
        self._root = _Logger.of(logging.root)
        self._logging = (logging.root.manager.disable, logging.getLoggerClass(), logging.raiseExceptions)
        self._loggers = {name: _Logger.of(one) for name, one in _loggers().items()}
        self._globals = _hydra_state()

    def put_back(self) -> None:
        """Make the process as it was. What cannot be put back (a folder that is gone) raises: it is not as new."""
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)
        os.umask(self._umask)
        sys.path[:], sys.argv[:] = self._path, self._arguments
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook = self._hooks
        sys.settrace(self._trace[0])
        sys.setprofile(self._trace[1])
        sys.setrecursionlimit(self._recursion)
        if self._collects:
            gc.enable()
        locale.setlocale(locale.LC_ALL, self._locale)
        self._put_back_signals()
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list, whatever its annotation says
        warnings.showwarning = self._show
        with warnings.catch_warnings():  # by its end a place that has warned before warns again
            pass
        self._put_back_logging()
        _set_hydra_state(self._globals)
        _new_randomness()
        _end_children()

    def _put_back_signals(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                with contextlib.suppress(OSError, ValueError):  # SIGKILL and SIGSTOP
                    signal.signal(number, handler)

    def _put_back_logging(self) -> None:
        """Loggers that came with the trial are as getLogger makes them, but for those of a library's own class."""
        logging.disable(self._logging[0])
        logging.setLoggerClass(self._logging[1])
        logging.raiseExceptions = self._logging[2]
        self._root.put_back(logging.root)
        for name, logger in _loggers().items():
            if name in self._loggers:
                self._loggers[name].put_back(logger)
            elif type(logger) is logging.Logger:
                _Logger(logging.NOTSET, [], [], propagate=True, disabled=False).put_back(logger)


def _loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict
    return {name: one for name, one in list(known.items()) if isinstance(one, logging.Logger)}


def _close(handler: logging.Handler) -> None:
    with contextlib.suppress(Exception):  # the task may have closed its file
        handler.close()


def _hydra_state() -> Any:
    """Hydra's singletons, and the plugins that it has found; None if nobody has imported it."""
    module = sys.modules.get("hydra.core.singleton")
    if module is None:
        return None
    from trialfleet.compat.hydra import FoundPlugins

    return module.Singleton.get_state(), FoundPlugins()


def _set_hydra_state(kept: Any) -> None:
    if kept is not None:
        state, plugins = kept
        sys.modules["hydra.core.singleton"].Singleton.set_state(plugins.give(state))


def _new_randomness() -> None:
    """A process begins with randomness of its own, and so does each trial. What is seeded by the task is so anyway."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _end_children() -> None:
    """End the processes that the task left running, as the end of its own process would."""
    from trialfleet.worker.ending import end_children

    end_children(but_for=_KEPT_CHILDREN)


def held_bytes() -> int:
    """Memory of the host that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
