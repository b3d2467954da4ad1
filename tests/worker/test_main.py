"""The job's worker as a real process on a real submission: every way to end, and to be ended."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from jobs.cluster.processes import wait_until
from tests.worker.study import PARAMS, UID, Study, slurm
from trialfleet.trial import metrics, out_of_memory, records
from trialfleet.trial.directory import TIME_LIMIT
from trialfleet.trial.failure import word_of_file_system
from trialfleet.trial.identity import Identity
from trialfleet.trial.process import Stat
from trialfleet.trial.result import OUT_OF_MEMORY, Result, TrialState
from trialfleet.trial.submission import TrialRecord


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result.json that somebody else commits."""
    path = tmp_path / "result.json"
    records.write(path, Result(TrialState.FAIL, None, None, {}, None, {}).to_json())
    return path


# -------------------------------------------------------------------- how a task ends


ENDS = {
    "complete": (TrialState.COMPLETE, 0, None),
    "raise": (TrialState.FAIL, 1, ("Odd", "no such thing")),
    "exit": (TrialState.FAIL, 1, ("SystemExit", "3")),
    "interrupt": (TrialState.FAIL, 1, ("KeyboardInterrupt", "")),
    "prune": (TrialState.PRUNED, 0, None),
    "not a number": (TrialState.FAIL, 1, ("WrongReturn", "nan")),
    "nothing": (TrialState.FAIL, 1, ("WrongReturn", "None")),
    "text": (TrialState.FAIL, 1, ("WrongReturn", "'high'")),
    "pair": (TrialState.FAIL, 1, ("WrongReturn", "(1, 2)")),
    "surprise": (TrialState.FAIL, 1, ("KeyError", "surprise")),
}


@pytest.mark.slow
def test_each_way_to_end_is_committed_as_what_it_is(study: Study) -> None:
    submission = study.submit(*([f"do={do}"] for do in ENDS))
    for number, (do, (state, code, error)) in enumerate(ENDS.items()):
        assert study.run(submission, number) == (code, ""), do
        ended = study.trial(number).result()
        assert ended is not None
        assert (ended.state, ended.run) == (state, "1.0"), do
        assert ended.seconds["total"] > 0
        if error is None:
            assert ended.error is None
        else:
            assert ended.error is not None
            assert ended.error["type"] == error[0]
            assert error[1] in ended.error["message"]
        assert "the task speaks" in (study.trial(number).run_dir("1.0") / "log").read_text()


def test_a_complete_trial_leaves_everything_in_its_runs_folder(study: Study) -> None:
    with study.start(study.submit(["do=complete", "x=2"])) as worker:
        assert worker.communicate(timeout=60)[0] == ""
    assert worker.returncode == 0
    trial = study.trial(0)
    ended = trial.result()
    assert ended is not None
    assert ended.objectives == [2.25]
    assert ended.seconds["compile"] == 2.0
    assert ended.notes == {"device": "cpu"}
    directory = trial.run_dir("1.0")
    assert sorted(entry.name for entry in trial.path.iterdir()) == ["result.json", "runs", "trial.json"]
    assert {".hydra", "claim", "log", "metrics.jsonl"} <= {entry.name for entry in directory.iterdir()}
    assert [line.values for line in metrics.read_from(directory / "metrics.jsonl")[0]] == [{"loss": 0.5}]
    (claim,) = trial.claims()
    assert claim.job.startswith("local:")
    written = [path.read_text() for path in (directory / ".hydra").iterdir()]
    assert "x: 2" in "".join(written)
    assert "s3cret" not in "".join(written)
    assert "num: 0" in (directory / ".hydra" / "hydra.yaml").read_text()


def test_a_double_of_a_submission_runs_nothing_and_writes_nothing(study: Study) -> None:
    """After the end, and while the first is still at it."""
    submission = study.submit(["do=complete"], ["do=complete"])
    study.trial(1).claim(1, "slurm:7", 0, Identity(UID, None))
    study.run(submission, 0)
    before = snapshot(study.folder)
    code, said = study.run(submission, 0)
    assert (code, "not run here: the trial has ended" in said) == (0, True)
    code, said = study.run(submission, 1, **slurm(12, SLURM_ARRAY_JOB_ID="12", SLURM_ARRAY_TASK_ID="1"))
    assert (code, "not run here: attempt 1 belongs to slurm:7" in said) == (0, True)
    assert snapshot(study.folder) == before


@pytest.mark.parametrize("left", [b"", bytes(300)])
def test_a_trial_of_which_a_power_cut_left_nothing_is_not_claimed(study: Study, left: bytes) -> None:
    submission = study.submit(["do=complete"])
    study.trial(0).trial_json.write_bytes(left)
    code, said = study.run(submission)
    assert (code, "not run here: trial.json is missing or empty" in said) == (0, True)
    assert study.trial(0).claims() == []


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_superseded_run_commits_nothing(study: Study) -> None:
    code, _ = study.run(study.submit(["do=superseded"]))
    assert code == 0
    assert study.trial(0).result() is None
    assert "a newer run of this trial exists" in (study.trial(0).run_dir("1.0") / "log").read_text()


def test_a_trial_that_ended_meanwhile_stays_as_it_ended(study: Study, result: Path) -> None:
    code, _ = study.run(study.submit(["do=ended", f"+result={result}"]))
    assert code == 0
    ended = study.trial(0).result()
    assert ended is not None
    assert ended.state is TrialState.FAIL


# -------------------------------------------------------------------- whose result it is


def test_claim_and_result_say_which_trial_of_which_study_they_are_of(study: Study) -> None:
    study.run(study.submit(["do=complete"]))
    trial = study.trial(0)
    ours = {"format": records.FORMAT, "study": UID, "params": records.digest(PARAMS)}
    for path in (trial.run_dir("1.0") / "claim", trial.result_json):
        written = json.loads(path.read_text())
        assert {name: written[name] for name in ours} == ours


def test_a_trial_json_of_other_parameters_is_not_run(study: Study) -> None:
    """Its folder was taken by another trial of the same number since the job was submitted."""
    submission = study.submit(["do=complete"])
    TrialRecord(0, ["do=complete"], {"x": 0.75}, study=UID).write(study.trial(0).trial_json)
    code, said = study.run(submission)
    assert (code, "not run here: trial.json has other parameters" in said) == (0, True)
    assert study.trial(0).claims() == []
    assert not study.trial(0).result_json.exists()


MOVED = "import os, errno, signal\nfrom trialfleet.trial import run\nos.rename(trial, trial.with_name('aside'))\n"


@pytest.mark.parametrize(
    "then",
    [
        "pass",
        "raise RuntimeError",
        "raise MemoryError",
        "raise OSError(errno.EIO, 'away')",
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(os.getpid(), signal.SIGUSR2); raise run.Preempted",
    ],
)
def test_a_run_whose_study_was_put_aside_writes_nothing_where_it_was(study: Study, then: str) -> None:
    """A fresh study may be there now, and a trial of the same number in it."""
    submission = study.does(MOVED + then)
    study.run(submission, SUBMITIT_LOCAL_TIMEOUT_S="5")
    assert not study.trial(0).path.exists()
    assert not (study.trial(0).path.with_name("aside") / "result.json").exists()


# -------------------------------------------------------------------- what a task leaves behind

LEAVES = {
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=(1e6,)).start()",
    "an exit handler": "import atexit, time; atexit.register(time.sleep, 1e6)",
    "a child": "import subprocess; child = subprocess.Popen(['sleep', '1000000']).pid",
    "a child of a child": "import subprocess; child = subprocess.Popen(['sh', '-c', 'sleep 1000000; true']).pid",
    "a child in a session of its own": (
        "import subprocess; child = subprocess.Popen(['sleep', '1000000'], start_new_session=True).pid"
    ),
    "a child that ignores SIGTERM": (
        "import subprocess, sys"
        "\nwork = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(1e6)'"
        "\nprocess = subprocess.Popen([sys.executable, '-u', '-c', work], stdout=subprocess.PIPE)"
        "\nprocess.stdout.readline(); child = process.pid"
    ),
    "no streams": "import sys; sys.stdout = sys.stderr = None",
    "closed streams": "import sys; sys.stderr.close(); sys.stdout.flush(); sys.stdout.close()",
}
LAST = "\nif 'child' in globals(): own.note(child=child)"


@pytest.mark.parametrize("left", LEAVES)
def test_nothing_that_a_task_leaves_behind_keeps_its_job_alive(study: Study, left: str) -> None:
    """`run` returns when the worker's process has ended. What it had to say is in its log, to the last letter."""
    said = "print('last words', end='')\n"
    assert study.run(study.does(said + LEAVES[left] + LAST))[0] == 0
    ended = study.ended()
    assert ended.state is TrialState.COMPLETE
    assert study.log().endswith("last words")
    child = ended.notes.get("child")
    assert child is None or wait_until(lambda: has_ended(child), 60)


def test_a_tasks_exit_handlers_run_and_what_it_wrote_is_flushed(study: Study) -> None:
    """Loggers of the user's own register their last upload there; and nobody closes every file."""
    body = (
        "import atexit, builtins\natexit.register(lambda: (own.directory / 'uploaded').touch())\n"
        "builtins.left_open = open(own.directory / 'left open', 'w')\nbuiltins.left_open.write('all of it')"
    )
    assert study.run(study.does(body))[0] == 0
    folder = study.trial(0).run_dir("1.0")
    assert (folder / "uploaded").exists()
    assert (folder / "left open").read_text() == "all of it"


def has_ended(pid: int) -> bool:
    stat = Stat.read(pid)
    return stat is None or stat.ended


FAILURES = {
    "a lone surrogate": ("raise ValueError('half a pair: \\ud83d')", "ValueError"),
    "a message that cannot be shown": (
        "class Odd(Exception):\n    def __str__(self): raise KeyError(1)\nraise Odd",
        "Odd",
    ),
    "a message that ends the process": (
        "import sys\nclass Odd(Exception):\n    def __str__(self): sys.exit(5)\nraise Odd",
        "Odd",
    ),
    "no exception of Exception's": ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
    "no streams": ("import sys; sys.stderr = sys.stdout = None; raise KeyError(7)", "KeyError"),
    "closed streams": ("import sys; sys.stderr.close(); sys.stdout.close(); raise KeyError(7)", "KeyError"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_committed_whatever_it_has_to_say(study: Study, failure: str) -> None:
    body, kind = FAILURES[failure]
    study.run(study.does(body))
    ended = study.ended()
    assert ended.error is not None
    assert (ended.state, ended.error["type"]) == (TrialState.FAIL, kind)


NOTES = {
    "an object": "own.note(thing=object())",
    "an object without a text": "class Odd:\n    def __repr__(self): raise KeyError(1)\nown.note(thing=Odd())",
    "an array": "import numpy; own.note(thing=numpy.arange(3), number=numpy.float32(0.5))",
    "a cycle": "thing = {}; thing['a'] = thing['b'] = [thing, thing]; own.note(thing=thing)",
    "half a character": "own.note(thing='\\ud83d')",
    "what is changed afterwards": "thing = {}; own.note(thing=thing); thing['x'] = object()",
    "ten megabytes": "own.note(thing='x' * 10_000_000)",
    "seconds that are a number": "own.note(seconds=5)",
    "seconds that are none": "own.note(seconds={'compile': 'long', 'total': 1e9, 'wait': float('nan')})",
    "seconds that no float holds": "own.note(seconds={'compile': 10**400})",
    "a number that is too long to be written": "own.note(thing=10**5000)",
    "and closed all files": "import os; os.closerange(3, 256)",
    "behind our back": "own.notes['thing'] = object(); own.notes['seconds'] = object()",
}


@pytest.mark.parametrize("note", NOTES)
def test_finished_work_is_committed_whatever_the_task_noted(study: Study, note: str) -> None:
    study.run(study.does(NOTES[note]))
    ended = study.ended()
    assert (ended.state, ended.objectives) == (TrialState.COMPLETE, [1.0]), ended.error
    assert 0 < ended.seconds["total"] < 1e6


def test_an_array_that_was_noted_is_kept_as_numbers(study: Study) -> None:
    study.run(study.does(NOTES["an array"]))
    assert study.ended().notes == {"thing": [0, 1, 2], "number": 0.5}


# -------------------------------------------------------------------- damaged files

DAMAGED = {"empty": b"", "half": b'{"format": 2, "sta', "binary": bytes(range(128, 256)), "another": b'{"a": 1}'}


@pytest.mark.parametrize("damage", DAMAGED)
def test_of_a_damaged_submission_nothing_is_run(study: Study, damage: str) -> None:
    submission = study.submit(["do=complete"])
    whole = submission.read_bytes()
    submission.write_bytes(DAMAGED[damage])
    code, said = study.run(submission)
    assert (code, submission.name in said) == (1, True)
    assert "Traceback" not in said
    assert (study.trial(0).claims(), study.trial(0).result_json.exists()) == ([], False)
    submission.write_bytes(whole)
    assert study.run(submission) == (0, "")
    assert study.ended().state is TrialState.COMPLETE


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_trial_json_keeps_no_job_from_what_its_submission_says(study: Study, damage: str) -> None:
    """But for an empty one: there is none where the study was put aside, and a power cut may leave it so."""
    submission = study.submit(["do=complete"])
    study.trial(0).trial_json.write_bytes(DAMAGED[damage])
    code, said = study.run(submission)
    assert (code, "Traceback" in said) == (0, False)
    assert study.trial(0).result_json.exists() == (damage != "empty")


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_verdict_or_claim_stops_no_healthy_run(study: Study, damage: str) -> None:
    left = f"{DAMAGED[damage]!r}"
    body = f"""
(trial / "verdict.json").write_bytes({left})
(own.directory / "claim").write_bytes({left})
own.report(1, {{"loss": 1.0}})
assert own.stop() is None
"""
    assert study.run(study.does(body))[0] == 0
    assert study.ended().state is TrialState.COMPLETE


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_result_stops_no_healthy_run_which_commits_once_it_is_set_aside(study: Study, damage: str) -> None:
    body = f"""
import threading, time
(trial / "result.json").write_bytes({DAMAGED[damage]!r})
own.report(1, {{"loss": 1.0}})
assert own.stop() is None
aside = lambda: (trial / "result.json").rename(trial / "aside")
threading.Timer(0.5, aside).start()  # as the driver does
"""
    assert study.run(study.does(body))[0] == 0
    assert study.ended().state is TrialState.COMPLETE


# -------------------------------------------------------------------- who is to blame


def test_a_local_time_limit_is_told_as_what_it_is_and_another_interrupt_as_a_failure(study: Study) -> None:
    """submitit's local controller sends SIGINT, the first time when the limit is reached."""
    # It is raised in this thread: where another one takes it, a sleeping task hears of it only when it wakes.
    submission = study.does(*["import signal, time; signal.raise_signal(signal.SIGINT); time.sleep(60)"] * 2)
    assert study.run(submission, 0, SUBMITIT_LOCAL_TIMEOUT_S="5")[0] == 0
    assert not study.trial(0).result_json.exists()
    assert (study.trial(0).run_dir("1.0") / TIME_LIMIT).exists()
    assert "the job's time limit is reached" in study.log(0)
    assert study.run(submission, 1, SUBMITIT_LOCAL_TIMEOUT_S="100000")[0] == 1
    error = study.ended(1).error
    assert error is not None
    assert error["type"] == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "failure",
    [
        "raise MemoryError('cannot allocate 7 TiB')",
        "import errno; raise OSError(errno.ENOMEM, 'Cannot allocate memory')",
        "import numpy; numpy.zeros(1 << 50)",
    ],
)
def test_without_the_hosts_memory_there_is_a_word_to_the_driver_and_no_result(study: Study, failure: str) -> None:
    assert study.run(study.does(failure))[0] == 0
    assert not study.trial(0).result_json.exists()
    word = records.read(study.trial(0).run_dir("1.0") / out_of_memory.RECORD)
    assert word is not None
    assert "allocate" in word["message"]


@pytest.mark.slow
def test_out_of_memory_on_the_device_ends_the_trial_under_a_name_of_its_own(study: Study) -> None:
    study.run(study.does("import jax.numpy; jax.numpy.zeros((1 << 50,)).block_until_ready()"), JAX_PLATFORMS="cpu")
    error = study.ended().error
    assert error is not None
    assert error["type"] == OUT_OF_MEMORY
    assert error["message"].startswith("out of memory on the device: ")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "wrapped", ["raise {error}", "try: raise {error}\nexcept OSError as e: raise ValueError from e"]
)
def test_a_file_system_that_fails_in_the_task_is_not_the_trials_fault(study: Study, number: int, wrapped: str) -> None:
    error = f"OSError({number}, {os.strerror(number)!r}, 'checkpoint')"
    assert study.run(study.does(wrapped.format(error=error)))[0] == 0
    assert not study.trial(0).result_json.exists()
    assert "not the trial's fault" in study.log()
    word = word_of_file_system(study.trial(0), "1.0")
    assert word is not None
    assert os.strerror(number) in word["message"] + word["traceback"]


# -------------------------------------------------------------------- signals


@pytest.mark.parametrize(("name", "requeues"), [("SIGUSR2", True), ("SIGTERM", False)])
def test_a_signal_lets_the_task_save_and_another_run_goes_on(study: Study, name: str, requeues: bool) -> None:
    """On a time limit or a preemption notice the same job starts again: a new run, which finds the checkpoint."""
    programs = study.folder.parent / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {study.folder.parent}/asked\n')
    (programs / "srun").write_text("")  # submitit looks whether there is one
    for program in programs.iterdir():
        program.chmod(0o755)
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    submission = study.submit(["do=signal", f"+signal={name}"])
    assert study.run(submission, **slurm(7), **path)[0] == 0
    trial = study.trial(0)
    assert trial.result() is None
    asked = study.folder.parent / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if requeues else "")
    study.submit(["do='from checkpoint'"])
    assert study.run(submission, **slurm(7, restart=1), **path)[0] == 0
    ended = trial.result()
    assert ended is not None
    assert (ended.objectives, ended.run) == ([7.0], "1.1")


SIGNALLED_DURING_IMPORTS = """
import os, runpy, signal, sys

class Signals:
    '''Sends the signal when the worker imports the first slow module.'''
    def find_spec(self, name, path=None, target=None):
        if name == "trialfleet.trial.submission":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Signals())
sys.argv = ["worker", sys.argv[1]]
runpy.run_module("trialfleet.worker", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_during_the_slow_imports_kills_nobody(study: Study, name: str) -> None:
    """A task that does not look for signals just ends."""
    program = SIGNALLED_DURING_IMPORTS.format(name=name)
    with study.start(study.submit(["do=complete"]), "-c", program) as worker:
        worker.communicate(timeout=60)
    assert worker.returncode == 0
    ended = study.trial(0).result()
    assert ended is not None
    assert ended.state is TrialState.COMPLETE


# -------------------------------------------------------------------- killed at each write


KILLED_AT_A_WRITE = """
import os, signal, sys

left = {writes}

def killed_at(event, arguments):
    # SIGKILL before the so-maniest step that makes, links or removes one of the worker's own files
    global left
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(path, (str, os.PathLike)) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    elif event in ("os.rename", "os.link", "os.mkdir", "os.remove"):
        path, writes = arguments[0], True
    else:
        return
    if writes and "/trials/" in os.fspath(path) and "/.hydra" not in os.fspath(path):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

sys.addaudithook(killed_at)
"""


@pytest.mark.slow
def test_killed_at_any_write_the_next_attempt_goes_on(study: Study) -> None:
    """Whatever is left of the dead run, the trial has no result or a whole one, and the next attempt ends it."""
    deaths = 0
    for writes in range(100):
        trial = study.trial(0)
        code, _ = study.run(study.submit(["do=complete"]), first=KILLED_AT_A_WRITE.format(writes=writes))
        survived = code == 0
        assert survived or code == -signal.SIGKILL
        ended, claims = trial.result(), trial.claims()
        for claim in claims:
            metrics.read_from(trial.run_dir(claim.label) / "metrics.jsonl")
        if ended is None:
            assert not survived
            attempt = 2 if claims else 1  # as the driver does it: a job that never claimed costs no attempt
            code, said = study.run(study.submit(["do=complete"], attempt=attempt))
            assert (code, said) == (0, "")
            ended = trial.result()
        assert ended is not None
        assert (ended.state, ended.objectives) == (TrialState.COMPLETE, [0.25])
        assert ended.run == f"{max(claim.attempt for claim in trial.claims())}.0"
        if survived:
            break
        deaths += 1
        trial.path.rename(study.folder / f"killed-{writes}")
    assert deaths >= 8


# -------------------------------------------------------------------- who a job is


def test_a_job_of_an_array_runs_its_element(study: Study) -> None:
    submission = study.submit(["do=complete"], ["do=complete", "x=1"])
    environment = slurm(31, SLURM_ARRAY_JOB_ID="30", SLURM_ARRAY_TASK_ID="1")
    assert study.run(submission, **environment)[0] == 0
    assert study.trial(0).claims() == []
    (claim,) = study.trial(1).claims()
    assert claim.job == "slurm:30_1"
    assert "id: '30_1'" in (study.trial(1).run_dir("1.0") / ".hydra" / "hydra.yaml").read_text()


def test_a_requeued_job_is_a_new_run_of_its_attempt(study: Study) -> None:
    submission = study.submit(["do=preempted"])
    for restart in range(2):
        assert study.run(submission, **slurm(7, restart))[0] == 0
    claims = study.trial(0).claims()
    assert [(claim.label, claim.job, claim.restart) for claim in claims] == [
        ("1.0", "slurm:7", 0),
        ("1.1", "slurm:7", 1),
    ]
    assert study.trial(0).result() is None


def test_a_driver_that_is_itself_a_job_lends_its_local_jobs_no_identity(study: Study) -> None:
    """Their environment has the driver's SLURM_JOB_ID: what counts is who started them."""
    environment = {**slurm(7, 3), "SUBMITIT_EXECUTOR": "local"}
    assert study.run(study.submit(["do=complete"]), **environment)[0] == 0
    (claim,) = study.trial(0).claims()
    assert (claim.job.partition(":")[0], claim.restart) == ("local", 0)


def test_the_other_processes_of_a_job_follow_the_first(study: Study) -> None:
    """They run the same task, and neither claim nor report nor commit."""
    submission = study.submit(["do=complete"])
    workers = [study.start(submission, **slurm(7, SLURM_PROCID=str(rank))) for rank in (1, 0)]
    for worker in workers:
        assert worker.communicate(timeout=60)[0] == ""
        assert worker.returncode == 0
    trial = study.trial(0)
    assert len(trial.claims()) == 1
    directory = trial.run_dir("1.0")
    assert len((directory / "metrics.jsonl").read_text().splitlines()) == 1
    assert "the task speaks" in (directory / "log.1").read_text()
    assert json.loads(trial.result_json.read_text())["state"] == "COMPLETE"


def test_a_run_that_lost_another_process_leaves_the_trial_to_the_next(study: Study) -> None:
    worker = study.start(study.submit(["do=peer lost"]), **slurm(7))
    worker.communicate(timeout=60)
    assert worker.returncode == 1  # by which srun ends what is left of the job
    assert not study.trial(0).result_json.exists()


@pytest.mark.slow
def test_a_failure_of_another_process_alone_ends_the_trial(study: Study) -> None:
    submission = study.submit(["do=second fails"])
    workers = [study.start(submission, **slurm(7, SLURM_PROCID=str(rank))) for rank in (1, 0)]
    for worker in workers:
        worker.communicate(timeout=60)
    result = json.loads(study.trial(0).result_json.read_text())
    assert (result["state"], result["error"]["type"], result["error"]["message"]) == ("FAIL", "Odd", "only here")
    assert [worker.returncode for worker in workers] == [1, 0]
