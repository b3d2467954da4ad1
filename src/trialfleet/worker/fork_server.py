"""A process that has imported what jobs need, and becomes each of them by a fork: `python -m … SOCKET MODULE …`.

The driver starts it, tells it by a socket what job is to be started, and ends it by closing that. A job is what it
would be from a fresh interpreter: a session of its own, the environment and the files that it is told, signals as they
come, nothing open and nothing random that another one has. Nothing of the application runs before the fork, and jax has
no devices: runtimes and threads do not survive one. Where a module has started a thread, nothing is forked.

What others read of a process in /proc, its words and its environment, is where the kernel put it: it is written anew
there, so that a job is found by both.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trialfleet.trial.fork_protocol import MOST, READY, REFUSES
from trialfleet.trial.jax_devices import jax_has_devices

KEPT_SECONDS = 5.0  # for which a process is there at least, be it that it has ended: the driver looks who it is


class ForkServer:
    """Serves one driver.

    Args:
        driver: what the driver says comes from here.
        modules: to import before the first fork.
    """

    def __init__(self, driver: socket.socket, modules: Sequence[str]) -> None:
        self._driver = driver
        self._jobs: dict[int, float] = {}  # when each was forked, by pid
        self._composed = False
        for name in modules:
            with contextlib.suppress(Exception):  # the job that needs it says what is wrong with it
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # what is there now stays: no job looks through it, which would copy it

    def serve(self) -> None:
        """Fork jobs until the driver is gone."""
        self._say({"state": READY if self._may_fork() else REFUSES})
        while True:
            ready, _, _ = select.select([self._driver], [], [], KEPT_SECONDS)
            self._reap()
            if not ready:
                continue
            request = self._driver.recv(MOST)
            if not request:
                return
            self._start(json.loads(request))

    def _may_fork(self) -> bool:
        return threading.active_count() == 1 and not jax_has_devices()

    def _compose(self, submission: str) -> None:
        """Read and merge the jobs' config files, which are the same for all jobs of a driver, before the first one."""
        self._composed = True
        with contextlib.suppress(Exception):  # the job itself says what is wrong
            from trialfleet.worker.task import compose_ahead

            compose_ahead(submission)
            gc.collect()
            gc.freeze()

    def _start(self, job: dict[str, Any]) -> None:
        if not self._composed:
            self._compose(job["task"][-1])
        if not self._may_fork():
            self._say({"state": REFUSES})
            return
        itself, its = os.pipe()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads that a library for linear algebra stops for a fork
                pid = os.fork()
        except OSError as error:
            os.close(itself)
            os.close(its)
            self._say({"state": REFUSES, "errno": error.errno})
            return
        if pid == 0:
            self._become(job)
        os.close(its)
        os.read(itself, 1)  # until it has closed the other end: whoever looks now finds the job, and not this process
        os.close(itself)
        self._jobs[pid] = time.monotonic()
        self._say({"pid": pid})

    def _become(self, job: dict[str, Any]) -> NoReturn:
        """Run the job in this process, which is its controller, and end it."""
        code = 1
        try:
            os.setsid()
            self._driver.close()
            _reset_signals()
            nothing = os.open(os.devnull, os.O_RDONLY)
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            _show(job["controller"], job["environment"])
            _only(nothing, log, log)
            os.chdir(job["folder"])
            code = _control(job)
        except BaseException:  # noqa: BLE001  # nobody catches what goes beyond a fork
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Let go of jobs that have ended, once the driver has had the time to see who they were."""
        for pid, forked in list(self._jobs.items()):
            if time.monotonic() - forked >= KEPT_SECONDS and os.waitpid(pid, os.WNOHANG)[0]:
                del self._jobs[pid]

    def _say(self, word: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the driver is gone: the next look says so
            self._driver.send(json.dumps(word).encode())


def _control(job: dict[str, Any]) -> int:
    from trialfleet.compat.submitit import control

    def task(environment: Mapping[str, str], out: int, err: int) -> NoReturn:
        code = 1
        try:
            _reset_signals()
            _only(os.open(os.devnull, os.O_RDONLY), out, err)
            _show(job["task"], environment)
            _run(job["task"])
            code = 0
        except SystemExit as leaves:
            code = leaves.code if isinstance(leaves.code, int) else int(leaves.code is not None)
        except BaseException:  # noqa: BLE001  # nobody catches what goes beyond a fork
            with contextlib.suppress(BaseException):
                traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            os._exit(code)

    control(Path(job["submissions"]), task)
    return 0


def _run(words: Sequence[str]) -> None:
    """What Python does that is started with these words: `python … -m MODULE ARGUMENT …`."""
    from trialfleet.worker import signals

    signals.STARTED = time.monotonic()
    module, *arguments = words[words.index("-m") + 1 :]
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# -------------------------------------------------------------------- as from a fresh interpreter


def _reset_signals() -> None:
    """As a new interpreter has them: Ctrl-C raises unless it was ignored, and what imports catch is the system's."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # SIGKILL and SIGSTOP
            if callable(signal.getsignal(number)) and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)


def _only(stdin: int, out: int, err: int) -> None:
    """Have these as standard streams, and nothing else open."""
    kept = [os.dup(one) for one in (stdin, out, err)]
    for number, one in enumerate(kept):
        os.dup2(one, number)
    os.closerange(3, max(int(name) for name in os.listdir("/proc/self/fd")) + 1)  # noqa: PTH208


def _show(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Take on these words and this environment, also where others read them."""
    os.environ.clear()
    places = [int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:49]]
    _fill(places[0], places[1], words)
    _fill(places[2], places[3], [f"{name}={value}" for name, value in environment.items()])
    os.environ.update(environment)
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _fill(start: int, end: int, texts: Sequence[str]) -> None:
    """Write texts where the kernel has put those that the process was started with, as many as there is room for."""
    room = end - start
    if start == 0 or room <= 0:
        return
    content = b""
    for text in texts:
        one = os.fsencode(text) + b"\0"
        if len(content) + len(one) <= room:
            content += one
    ctypes.memmove(start, content.ljust(room, b"\0"), room)


if __name__ == "__main__":
    descriptor, _, *to_import = sys.argv[1:]  # the second word is room for a job's own in /proc
    ForkServer(socket.socket(fileno=int(descriptor)), to_import).serve()
    os._exit(0)
