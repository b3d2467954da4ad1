"""Who may run a trial, who runs it, and how it ends once: the promises of the trial's folder.

The generated cases let jobs, their requeued selves and their doubles act in any order, in the middle of each
other's claims too.
"""

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trialfleet.trial.claim import Claim, NotClaimed
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.failure import Cause, cause_of, error_of
from trialfleet.trial.identity import Identity
from trialfleet.trial.result import Result, TrialState, described, judged

OURS = Identity("study", "params")


@pytest.fixture
def trial(tmp_path: Path) -> TrialDir:
    return TrialDir(tmp_path / "trials" / "00042")


def complete(value: float, label: str | None = "1.0") -> Result:
    return Result(TrialState.COMPLETE, [value], None, {"total": 1.5}, label, {})


# -------------------------------------------------------------------- claims


def test_the_first_claim_of_an_attempt_makes_it_the_jobs_own(trial: TrialDir) -> None:
    claim = trial.claim(1, "slurm:7", 0, OURS)
    assert (claim.label, claim.attempt, claim.restart, claim.job) == ("1.0", 1, 0, "slurm:7")
    assert claim.process.is_alive()
    assert trial.claims() == [claim]


def test_a_double_of_the_same_submission_is_turned_away(trial: TrialDir) -> None:
    """sbatch timed out, the driver submitted again, and both jobs came."""
    first = trial.claim(1, "slurm:7", 0, OURS)
    with pytest.raises(NotClaimed, match="belongs to slurm:7"):
        trial.claim(1, "slurm:8", 0, OURS)
    with pytest.raises(NotClaimed, match="belongs to slurm:7"):
        trial.claim(1, "slurm:8", 1, OURS)
    assert trial.claims() == [first]


def test_a_requeued_job_takes_up_its_own_attempt(trial: TrialDir) -> None:
    """It keeps its id, so that a claim by job alone would lock it out, or let both lives run."""
    trial.claim(1, "slurm:7", 0, OURS)
    second = trial.claim(1, "slurm:7", 1, OURS)
    assert second.label == "1.1"
    third = trial.claim(1, "slurm:7", 4, OURS)  # requeued more often than it came to claim
    assert [claim.label for claim in trial.claims()] == ["1.0", "1.1", "1.4"]
    assert third.newer_than(second)


def test_a_job_requeued_before_its_first_claim_still_owns_the_attempt_exclusively(trial: TrialDir) -> None:
    first = trial.claim(1, "slurm:7", 2, OURS)
    assert (first.label, first.restart) == ("1.0", 2)
    with pytest.raises(NotClaimed):
        trial.claim(1, "slurm:8", 0, OURS)
    with pytest.raises(NotClaimed):  # its earlier life wakes up
        trial.claim(1, "slurm:7", 1, OURS)
    assert trial.claim(1, "slurm:7", 3, OURS).label == "1.3"


def test_the_same_life_of_a_job_claims_once(trial: TrialDir) -> None:
    trial.claim(1, "slurm:7", 1, OURS)
    with pytest.raises(NotClaimed, match="restart 1 of attempt 1 exists"):
        trial.claim(1, "slurm:7", 1, OURS)
    with pytest.raises(NotClaimed):
        trial.claim(1, "slurm:7", 0, OURS)


def test_an_older_attempt_is_over(trial: TrialDir) -> None:
    trial.claim(1, "slurm:7", 0, OURS)
    trial.claim(2, "slurm:9", 0, OURS)
    with pytest.raises(NotClaimed, match="attempt 2 exists"):
        trial.claim(1, "slurm:7", 1, OURS)


def test_nobody_runs_a_trial_that_has_ended(trial: TrialDir) -> None:
    trial.commit(complete(1.0), OURS)
    with pytest.raises(NotClaimed, match="ended"):
        trial.claim(1, "slurm:7", 0, OURS)
    assert trial.claims() == []


def test_a_trial_that_ends_during_the_claim_is_not_run(trial: TrialDir) -> None:
    racing = Racing(trial.path, lambda: trial.commit(complete(1.0), OURS))
    with pytest.raises(NotClaimed, match="ended"):
        racing.claim(1, "slurm:7", 0, OURS)


def test_claims_are_ordered_by_number_not_by_name(trial: TrialDir) -> None:
    for attempt in (9, 10):
        trial.claim(attempt, f"slurm:{attempt}", 0, OURS)
    trial.claim(10, "slurm:10", 2, OURS)
    trial.claim(10, "slurm:10", 11, OURS)
    assert [claim.label for claim in trial.claims()] == ["9.0", "10.0", "10.2", "10.11"]


def test_only_older_runs_are_superseded(trial: TrialDir) -> None:
    first = trial.claim(1, "slurm:7", 0, OURS)
    assert not trial.superseded(first)
    second = trial.claim(1, "slurm:7", 1, OURS)
    third = trial.claim(2, "slurm:8", 0, OURS)
    assert trial.superseded(first)
    assert trial.superseded(second)
    assert not trial.superseded(third)


def test_a_run_whose_claim_is_another_ones_by_now_is_superseded(trial: TrialDir, tmp_path: Path) -> None:
    """Its study was put aside, and a fresh one has a run of the same label."""
    old = trial.claim(1, "slurm:7", 0, OURS)
    trial.path.rename(tmp_path / "aside")
    assert trial.superseded(old)
    fresh = Identity("fresh", OURS.params)
    TrialDir(trial.path).claim(1, "slurm:8", 0, fresh)
    assert trial.superseded(old)
    assert TrialDir(trial.path).commit(complete(1.0), OURS)
    assert not trial.ended(fresh)  # the old job's, with the same parameters


def test_a_result_that_is_good_after_all_is_put_back(trial: TrialDir) -> None:
    assert trial.set_result_aside(lambda result: True) is None
    trial.commit(complete(1.0), OURS)
    assert trial.set_result_aside(lambda result: result.identity == OURS) is None
    assert trial.result() == complete(1.0)
    aside = trial.set_result_aside(lambda result: False)
    assert aside is not None
    assert aside.exists()
    assert trial.result() is None


def test_a_run_without_a_claim_is_none(trial: TrialDir) -> None:
    """A process that died between making its folder and claiming."""
    trial.run_dir("1.0").mkdir(parents=True)
    assert trial.claims() == []
    assert trial.claim(1, "slurm:7", 0, OURS).label == "1.0"


CLAIM_MANY = """
import sys
from pathlib import Path
from trialfleet.trial.identity import Identity
from trialfleet.trial.directory import TrialDir
from trialfleet.trial.claim import NotClaimed

OURS = Identity("study", "params")
folder, job = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    try:
        print(number, TrialDir(folder / str(number)).claim(1, job, 0, OURS).label)
    except NotClaimed:
        pass
"""


def test_of_many_processes_at_once_one_gets_the_attempt(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_MANY, str(tmp_path), f"slurm:{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n")[0] for process in processes]
    claimed = sorted(line for output in outputs for line in output.splitlines())
    assert claimed == sorted(f"{number} 1.0" for number in range(30))


# -------------------------------------------------------------------- the commit point


def test_a_result_is_read_as_committed(trial: TrialDir) -> None:
    error = {"type": "ValueError", "message": "no", "traceback": "Traceback …"}
    result = Result(TrialState.FAIL, None, error, {"total": 2.0}, "2.1", {"device": "cpu"})
    assert trial.result() is None
    assert trial.commit(result, OURS)
    assert trial.result() == result


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_objectives_survive(trial: TrialDir, value: float) -> None:
    trial.commit(complete(value), OURS)
    assert trial.result() == complete(value)


def test_who_commits_first_is_the_truth(trial: TrialDir) -> None:
    """Of a run that completes and a driver that gives it up."""
    assert trial.commit(complete(1.0), OURS)
    assert not trial.commit(Result(TrialState.FAIL, None, None, {}, None, {}), OURS)
    assert trial.result() == complete(1.0)


def test_of_many_commits_at_once_one_counts(trial: TrialDir) -> None:
    start, won = threading.Barrier(8), []

    def commit(value: float) -> None:
        start.wait()
        if trial.commit(complete(value), OURS):
            won.append(value)

    threads = [threading.Thread(target=commit, args=(float(value),)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert trial.result() == complete(won[0])


# -------------------------------------------------------------------- what a task returned


@pytest.mark.parametrize(
    ("value", "count", "objectives"),
    [
        (0.5, 1, [0.5]),
        ("0.5", 1, [0.5]),
        (True, 1, [1.0]),
        (math.inf, 1, [math.inf]),
        ((1, 2.5), 2, [1.0, 2.5]),
        ([1, "2"], 2, [1.0, 2.0]),
    ],
)
def test_right_returns(value: object, count: int, objectives: list[float]) -> None:
    assert judged(value, count) == (TrialState.COMPLETE, objectives, None)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (None, 1),
        ("high", 1),
        ([0.5], 1),
        ({}, 1),
        (math.nan, 1),
        ("nan", 1),
        (0.5, 2),
        ([1], 2),
        ([1, 2, 3], 2),
        ([1, math.nan], 2),
        ([1, None], 2),
        (None, 2),
        ([], 2),
    ],
)
def test_wrong_returns_say_what_was_wanted(value: object, count: int) -> None:
    state, objectives, error = judged(value, count)
    assert (state, objectives) == (TrialState.FAIL, None)
    assert error is not None
    assert ("a number" if count == 1 else "2 numbers") in error["message"]
    assert repr(value) in error["message"]


def raising(failure: BaseException) -> Callable[..., Any]:
    def method(self: object) -> Any:
        raise failure

    return method


def odd(**methods: Callable[..., Any]) -> object:
    """An object of a class of its own with these methods."""
    return type("Odd", (), methods)()


@pytest.mark.parametrize(
    ("value", "count", "words"),
    [
        (10**400, 1, "OverflowError"),
        (10**5000, 1, "a int (it cannot be shown: ValueError)"),  # Python writes no number so long
        (odd(__float__=raising(RuntimeError("Array has been deleted"))), 1, "RuntimeError: Array has been deleted"),
        (odd(__float__=raising(SystemExit(3))), 1, "SystemExit: 3"),
        (odd(__iter__=raising(RuntimeError("closed"))), 2, "RuntimeError: closed"),
        (odd(__repr__=raising(ValueError("no text"))), 1, "a Odd (it cannot be shown: ValueError)"),
        (odd(__repr__=raising(SystemExit(3))), 2, "a Odd (it cannot be shown: SystemExit)"),
    ],
    ids=["huge", "long", "deleted", "exits", "iterates", "no repr", "repr exits"],
)
def test_a_return_whose_own_code_fails_is_a_wrong_one(value: object, count: int, words: str) -> None:
    state, objectives, error = judged(value, count)
    assert (state, objectives) == (TrialState.FAIL, None)
    assert error is not None
    assert error["type"] == "WrongReturn"
    assert words in error["message"]


class OddError(OSError):
    """Whatever is asked of it raises."""

    __cause__ = property(raising(KeyError(1)))  # type: ignore[assignment]
    errno = property(raising(KeyError(1)))  # type: ignore[assignment]
    __str__ = raising(SystemExit(3))


def test_an_exception_whose_own_code_fails_is_judged_and_described() -> None:
    assert cause_of(OddError()) is Cause.TRIAL
    assert error_of(OddError())["type"] == "OddError"


def test_an_exception_is_described_with_its_traceback() -> None:
    try:
        raise KeyError("learning_rate")
    except KeyError as failure:
        error = described(failure)
    assert error["type"] == "KeyError"
    assert "learning_rate" in error["message"]
    assert "test_directory.py" in error["traceback"]


# -------------------------------------------------------------------- generated interleavings


class Racing(TrialDir):
    """A trial's folder in which others act just after its claims were listed."""

    def __init__(self, path: Path, others: Callable[[], object]) -> None:
        super().__init__(path)
        self._others: Callable[[], object] | None = others

    def claims(self) -> list[Claim]:
        listed = super().claims()
        others, self._others = self._others, None
        if others is not None:
            others()
        return listed


class Life:
    """One life of a process of a job, which claims, looks and commits as a job's worker does."""

    def __init__(self, attempt: int, job: str, restart: int) -> None:
        self.attempt, self.job, self.restart = attempt, job, restart
        self.claim: Claim | None = None
        self.saw_newer = False
        self.done = False


class TrialFolder(RuleBasedStateMachine):
    """Jobs of a trial, started once or twice an attempt, requeued at will, each life acting when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.trial = TrialDir(self.path)
        self.attempt = 1
        self.lives: list[Life] = []
        self.committed: list[Result] = []
        self.jobs = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule()
    def the_driver_submits(self) -> None:
        """Again for the same attempt, too: an sbatch without an answer."""
        self.jobs += 1
        self.lives.append(Life(self.attempt, f"slurm:{self.jobs}", 0))

    @rule()
    def the_driver_takes_the_attempt_for_lost(self) -> None:
        self.attempt += 1

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def slurm_requeues(self, data: st.DataObject) -> None:
        """The earlier life goes on: its node was only lost to Slurm."""
        life = data.draw(st.sampled_from(self.lives))
        restart = max(other.restart for other in self.lives if other.job == life.job) + 1
        self.lives.append(Life(life.attempt, life.job, restart))

    @precondition(lambda self: any(life.claim is None and not life.done for life in self.lives))
    @rule(data=st.data())
    def claims(self, data: st.DataObject) -> None:
        """A life claims, and in the middle of that up to three others do."""
        idle = [life for life in self.lives if life.claim is None and not life.done]
        order = data.draw(st.lists(st.sampled_from(idle), min_size=1, max_size=4, unique=True))
        self._claim(order)

    def _claim(self, order: list[Life]) -> None:
        life, others = order[0], order[1:]
        folder = Racing(self.path, lambda: self._claim(others)) if others else self.trial
        try:
            life.claim = folder.claim(life.attempt, life.job, life.restart, OURS)
        except NotClaimed:
            life.done = True

    @precondition(lambda self: any(life.claim and not life.done for life in self.lives))
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        """A run looks for newer claims, others act, and it commits if it saw none."""
        running = [life for life in self.lives if life.claim and not life.done]
        life = data.draw(st.sampled_from(running))
        assert life.claim is not None
        newer = any(
            (other.claim.attempt, other.claim.restart) > (life.claim.attempt, life.claim.restart)
            for other in self.lives
            if other.claim
        )
        assert self.trial.superseded(life.claim) == newer
        life.done = True
        if newer:
            return
        idle = [other for other in self.lives if other.claim is None and not other.done]
        if idle and data.draw(st.booleans()):
            self._claim([data.draw(st.sampled_from(idle))])
        self._commit(complete(float(len(self.lives)), life.claim.label))

    @rule()
    def the_driver_gives_up(self) -> None:
        self._commit(Result(TrialState.FAIL, None, None, {}, None, {}))

    def _commit(self, result: Result) -> None:
        if self.trial.commit(result, OURS):
            self.committed.append(result)

    @invariant()
    def at_most_one_result_which_never_changes(self) -> None:
        assert len(self.committed) <= 1
        assert self.trial.result() == (self.committed[0] if self.committed else None)

    @invariant()
    def never_two_owners_of_an_attempt(self) -> None:
        owners: dict[int, set[str]] = {}
        for claim in self.trial.claims():
            owners.setdefault(claim.attempt, set()).add(claim.job)
        assert all(len(jobs) == 1 for jobs in owners.values())

    @invariant()
    def never_two_processes_in_one_run(self) -> None:
        labels = [life.claim.label for life in self.lives if life.claim]
        assert len(labels) == len(set(labels))

    @invariant()
    def the_result_is_of_a_run_that_claimed(self) -> None:
        if self.committed and self.committed[0].run is not None:
            assert self.committed[0].run in {claim.label for claim in self.trial.claims()}


TestTrialFolder = TrialFolder.TestCase
TestTrialFolder.settings = settings(settings.get_profile("everyday"), max_examples=60, stateful_step_count=25)
