"""One tiny Slurm job: what a node sees of the shared folder, whether its clock agrees, whether it has our package.

It is submitted as trials are, by sbatch, with the launcher's partition, account and setup, but for one core and without
GPUs. Whatever becomes of it, it is cancelled and its folder is removed.
"""

import getpass
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from trialfleet.compat.submitit import batch_script
from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.doctor.folders import PREFIX
from trialfleet.doctor.slurm import SECONDS, Slurm, ask
from trialfleet.sweep.fleets import slurm_answers, slurm_command
from trialfleet.sweep.fleets.slurm import script_parameters

QUEUE_SECONDS = 120.0  # how long the job may wait in line
ANSWER_SECONDS = 90.0  # how long each of its answers may take: network file systems keep what they saw for a minute
GONE_SECONDS = 60.0  # how long files may take to appear after the job has gone
LOOK_SECONDS = 0.05
ASK_SECONDS = 1.0
REMOVE_SECONDS = 10.0
_MINUTES = 5
_SKEW_SECONDS = 2.0
_ORDINARY = ("None", "Resources", "Priority", "")  # reasons to wait that say nothing against the job

# What the node does. Each answer gets its name when it is whole; `ping` is written by the other side meanwhile.
_PROBE = """\
cd {folder} || exit 1
say() {{ cat > "$1.part" && mv "$1.part" "$1"; }}
{{ echo "${{SLURMD_NODENAME:-$(hostname)}}"; cat host; }} | say node
tries=0
until [ -e ping ] || [ $tries -ge {tries} ]; do sleep 0.1 || sleep 1; tries=$((tries + 1)); done
{{ cat ping; date +%s.%N; }} | say pong
{{ {python} -P -c {program}; echo "exit $?"; }} 2>&1 | say python
"""
_PROGRAM = (
    "import sys, trialfleet.worker.main; from importlib.metadata import version; "
    "print(sys.executable, sys.version.split()[0], version('trialfleet'), sep=chr(9))"
)


class _NoAnswer(Exception):
    """A file of the job's did not appear.

    Args:
        message: what was seen instead.
        line: whether the job was still waiting in line, for no reason that speaks against it.
    """

    def __init__(self, message: str, line: bool = False) -> None:
        super().__init__(message)
        self.line = line


class TinyJob:
    """Args:
    wait: seconds that the job may wait in line.
    """

    def __init__(self, asked: Asked, slurm: Slurm, wait: float = QUEUE_SECONDS) -> None:
        self._asked, self._slurm, self._wait = asked, slurm, wait
        self._name = f"trialfleet-doctor-{uuid4().hex[:8]}"
        self._folder: Path | None = None
        self._guard = threading.Lock()  # held while a job or a folder comes into being
        self._submitted = False
        self._over = False
        self._job = ""

    @property
    def seconds(self) -> float:
        """How long `look` may take."""
        return self._wait + 2 * ANSWER_SECONDS + GONE_SECONDS + 3 * SECONDS

    def look(self) -> Iterator[Finding]:
        if not (self._asked.job and self._slurm.answers):
            return
        refusal = self._submit()
        if refusal is not None:
            yield refusal
            return
        began = time.monotonic()
        try:
            node, *token = self._answer("node", self._wait)
        except _NoAnswer as error:
            yield self._not_seen(error)
            return
        place = self._asked.place
        yield ok("job", f"job {self._job} ran on {node}, {time.monotonic() - began:.1f} s after it was submitted")
        if token != [self._name]:
            yield fail("job.folder", f"{node} does not see in {place} what {socket.gethostname()} wrote there", _SHARE)
            return
        try:
            yield self._clock(node)
        except _NoAnswer as error:
            yield fail("job.folder", f"{node} does not see a new file in {place}: {error}", _SHARE)
            return
        yield self._python(node)

    # ---------------------------------------------------------------- what the node says

    def _clock(self, node: str) -> Finding:
        """Send a word there and back by files. The node wrote its clock's time between the two."""
        assert self._folder is not None
        sent = time.time()
        part = self._folder / "ping.part"
        part.write_text(f"{self._name}\n")
        part.rename(self._folder / "ping")
        begun = time.monotonic()
        answer = self._answer("pong", ANSWER_SECONDS)
        took = time.monotonic() - begun
        place = self._asked.place
        found = f"{node} and {socket.gethostname()} share {place}: a file there and one back took {took:.2f} s"
        try:
            clock = float(answer[1])
        except (IndexError, ValueError):
            return note("job.folder", f"{found}; the node's clock cannot be read", "nothing: studies compare no clocks")
        difference = clock - (sent + took / 2)
        found += f"; the node's clock differs by {difference:+.2f} ± {took / 2:.2f} s"
        if abs(difference) > took / 2 + _SKEW_SECONDS:
            return note(
                "job.folder", found, "set the clocks (ntp, chrony): studies bear it, times in MLflow are wrong by it"
            )
        return ok("job.folder", found)

    def _python(self, node: str) -> Finding:
        """Whether the launcher's Python is there, with our package in it."""
        shown = self._python_command
        try:
            *said, code = self._answer("python", ANSWER_SECONDS)
        except _NoAnswer as error:
            return fail("job.python", f"{shown} on {node} gives no answer: {error}", _PYTHON)
        if code != "exit 0":
            return fail("job.python", f"{shown} on {node}: {said[-1] if said else code}", _PYTHON)
        program, python, there = next(line for line in said if line.count("\t") == 2).split("\t")
        found = f"on {node} {program} is Python {python} with trialfleet {there}"
        if there != version("trialfleet"):
            return note(
                "job.python", f"{found}; here it is {version('trialfleet')}", "install the same version on both"
            )
        return ok("job.python", found)

    @property
    def _python_command(self) -> str:
        named = self._asked.launcher.get("python") if self._asked.on_slurm else None
        return str(named or shlex.quote(sys.executable))

    # ---------------------------------------------------------------- its life

    def _submit(self) -> Finding | None:
        """None if it was submitted."""
        with self._guard:
            if self._over:
                return note("job", "was not submitted: the command had ended", "run it again")
            folder = self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._asked.place))
            (folder / "host").write_text(f"{self._name}\n")
            script = folder / "job.sh"
            script.write_text(self._script(folder))
            self._submitted = True
            done = slurm_command.run(
                "sbatch", "--parsable", str(script), environment=slurm_command.outside_of_jobs(), seconds=SECONDS
            )
        if done is None:
            return fail("job", "sbatch does not answer", "ask who runs the cluster")
        job, _ = slurm_answers.submitted(done.stdout)
        if done.returncode != 0 or job is None:
            fix = "correct hydra.launcher (partition, account, qos, …)"
            return fail("job", f"sbatch refuses: {done.stderr.strip() or done.stdout.strip()}", fix)
        self._job = job
        return None

    def _script(self, folder: Path) -> str:
        asked = script_parameters(self._asked.launcher, folder) if self._asked.on_slurm else {}
        kept = ("partition", "account", "qos", "constraint", "exclude", "setup", "additional_parameters")
        parameters = {key: value for key, value in asked.items() if key in kept}
        probe = folder / "probe.sh"
        probe.write_text(
            _PROBE.format(
                folder=shlex.quote(str(folder)),
                tries=int(ANSWER_SECONDS * 10),
                python=self._python_command,
                program=shlex.quote(_PROGRAM),
            )
        )
        small = {"job_name": self._name, "time": _MINUTES, "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": 1}
        return batch_script(
            f"sh {shlex.quote(str(probe))}", folder, use_srun=False, signal_delay_s=1, **{**parameters, **small}
        )

    def _answer(self, name: str, seconds: float) -> list[str]:
        """The lines of one of the job's files.

        Raises:
            _NoAnswer: it does not appear, and the job waits, runs or is gone.
        """
        assert self._folder is not None
        path = self._folder / name
        now = time.monotonic()
        deadline, ask_at, gone_at, state = now + seconds, now + ASK_SECONDS, float("inf"), ""
        while True:
            try:
                return path.read_text(errors="replace").splitlines()
            except FileNotFoundError:
                now = time.monotonic()
            if now > min(deadline, gone_at) or self._over:
                line = state.startswith("PENDING ") and state.removeprefix("PENDING ").strip("()") in _ORDINARY
                raise _NoAnswer(f"after {seconds:g} s job {self._job} is {state or 'gone'}", line)
            if now > ask_at:
                state, ask_at = self._state(), now + ASK_SECONDS
                gone_at = min(gone_at, now + GONE_SECONDS) if not state else float("inf")
            time.sleep(LOOK_SECONDS)

    def _state(self) -> str:
        """Slurm's words for the job, `PENDING (Resources)`; empty once it has ended."""
        done = ask("squeue", "-h", "-j", self._job, "-o", slurm_answers.QUEUE_FORMAT)
        row = slurm_answers.queue(done.stdout).rows.get(self._job) if done is not None else None
        if done is None:
            return "in a state that squeue does not tell"
        if row is None or row.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
            return ""
        return f"{row.state} ({row.reason})" if row.state == "PENDING" else row.state

    def _not_seen(self, error: _NoAnswer) -> Finding:
        if error.line:
            return note(
                "job", f"{error}, and is taken back: nothing is known of the nodes", "wait longer: --wait SECONDS"
            )
        said = self._log()
        found = f"{error}, and nothing of it is seen in {self._asked.place}" + (f": {said}" if said else "")
        return fail("job", found, f"see squeue and sinfo -R; if the job ran: {_SHARE}")

    def _log(self) -> str:
        """The last line that the job left, a failing `setup` for example."""
        assert self._folder is not None
        lines = [line for path in self._folder.glob("*.err") for line in path.read_text(errors="replace").splitlines()]
        return lines[-1] if lines else ""

    def end(self) -> Iterable[Finding]:
        """Cancel the job, by its name: sbatch may not have told its number. Remove the folder."""
        with self._guard:
            self._over = True
        if self._submitted:
            ask("scancel", "--quiet", f"--user={getpass.getuser()}", f"--name={self._name}")
        if self._folder is None:
            return []
        deadline = time.monotonic() + REMOVE_SECONDS
        while self._folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(self._folder, ignore_errors=True)  # the job may be writing its last words
            time.sleep(LOOK_SECONDS)
        if self._folder.exists():
            return [note("job", f"{self._folder} could not be removed", "delete it")]
        return []


_SHARE = "put studies on a file system that the nodes share, with hydra.sweep.dir"
_PYTHON = "install trialfleet where the nodes find it, or name their Python with hydra.launcher.python (and setup)"
