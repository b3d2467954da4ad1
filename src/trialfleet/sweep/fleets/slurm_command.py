"""How Slurm's commands are run: never for ever, out of the terminal's reach, and not as part of a job."""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping

ANSWER_SECONDS = 60.0  # how long a Slurm command may take before it counts as unanswered

Done = subprocess.CompletedProcess[str]


def run(*command: str, environment: Mapping[str, str] | None = None, seconds: float | None = None) -> Done | None:
    """Run a Slurm command; None if it did not answer in time, ANSWER_SECONDS by default, or could not be started."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # whatever a site prints besides is no reason to fall over
            timeout=ANSWER_SECONDS if seconds is None else seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the driver, not for an sbatch under way
        )
    except (subprocess.TimeoutExpired, OSError):
        return None


class Question:
    """A command on a thread of its own, which ends with the process."""

    def __init__(self, ask: Callable[[], Done | None]) -> None:
        self.answer: Done | None = None
        self._ask = ask
        self._thread = threading.Thread(target=self._run, name="squeue", daemon=True)
        self._thread.start()

    def answered(self, patience: float) -> bool:
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self.answer = self._ask()


def outside_of_jobs() -> dict[str, str]:
    """Our environment without what Slurm set, if we are a job ourselves: children would inherit its restart
    count and its resources. SLURM_CONF stays: it says which cluster is meant."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        environment = dict(os.environ)
    return environment if conf is None else {**environment, "SLURM_CONF": conf}
