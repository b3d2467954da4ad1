"""A trial's directory: who may run it, who runs it, and how it ended.

    trial.json          overrides, attempt, submission; written by the driver before anything is submitted
    verdict.json        the driver's request to stop, read by whoever runs the trial
    runs/1.0/claim      created exclusively: attempt 1, restart 0 belongs to one process
    result.json         the commit point: linked into being once, by whoever is first

Two runs of one trial can be alive at once (a node that Slurm lost goes on running while the requeued job
runs elsewhere). Claims are ordered by (attempt, restart); only the newest may commit.
"""

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialfleet.trial import records
from trialfleet.trial.claim import NOBODY, Claim, NotClaimed
from trialfleet.trial.identity import Identity
from trialfleet.trial.process import Process
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import Result

TIME_LIMIT = "time_limit.json"  # in a run's folder: the run saved and left because of its job's time limit


class TrialDir:
    """The files of one trial. To construct it creates nothing on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trial_json = path / "trial.json"
        self.verdict_json = path / "verdict.json"
        self.result_json = path / "result.json"
        self.runs = path / "runs"
        self._claims: dict[str, Claim] = {}  # those that were read; a claim never changes

    def run_dir(self, label: str) -> Path:
        return self.runs / label

    def result(self) -> Result | None:
        """How the trial ended; None while it has not.

        Raises:
            Damaged: result.json is there, and is no result.
        """
        if not os.access(self.result_json, os.F_OK):  # mostly it is not there, and this is told sooner than by an error
            return None
        record = records.read(self.result_json)
        if record is None:
            if not self.result_json.exists():
                return None
            raise Damaged(self.result_json, "is empty")
        try:
            return Result.from_json(record)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Damaged(self.result_json, f"is no result ({error!r})") from None

    def commit(self, result: Result, identity: Identity) -> bool:
        """End the trial, once. False if it had ended already: the result that is there is the truth.

        Args:
            identity: the trial that the result is of.
        """
        return records.create(self.result_json, replace(result, identity=identity).to_json())

    def ended(self, identity: Identity) -> bool:
        """Whether the trial has a result: a file that is damaged, or of another trial or study, is none."""
        try:
            result = self.result()
        except Damaged:
            return False
        return result is not None and (result.identity.study is None or result.identity == identity)

    def set_result_aside(self, is_ours: Callable[[Result], bool]) -> Path | None:
        """Rename a result.json that is none, or another trial's.

        Args:
            is_ours: judges a whole result; one that came into being just now is put back.

        Returns:
            the new name; None if there was nothing to set aside after all.
        """
        try:
            aside = records.set_aside(self.result_json)
        except FileNotFoundError:
            return None
        try:
            record = records.read(aside)
            good = record is not None and is_ours(Result.from_json(record))
        except (Damaged, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            good = False
        if not good:
            return aside
        with contextlib.suppress(FileExistsError):
            os.link(aside, self.result_json)
        aside.unlink()
        return None

    def verdict(self) -> dict[str, Any] | None:
        """The driver's request to stop, or None. A file that is no request is none: it must not end a trial."""
        if not os.access(self.verdict_json, os.F_OK):
            return None
        try:
            record = records.read(self.verdict_json)
        except Damaged:
            return None
        return record if record is not None and isinstance(record.get("prune_at"), int) else None

    def is_taken(self) -> bool:
        """Whether the folder holds a trial already, or what is left of one."""
        return self.trial_json.exists() or self.result_json.exists() or bool(self.claims())

    def claims(self) -> list[Claim]:
        """All claims, oldest first; one that cannot be read counts, too: its run began."""
        known = dict(self._claims)
        for label in self.run_labels():
            if label not in known:
                claim = self._read_claim(label)
                if claim is not None:
                    known[label] = claim
                    if not claim.damaged:
                        self._claims[label] = claim
        return sorted(known.values(), key=lambda claim: (claim.attempt, claim.restart))

    def claims_of(self, identity: Identity) -> list[Claim]:
        """The claims of runs that had the trial's parameters, oldest first; others are somebody else's in its folder.

        A claim that does not say, of an earlier version or damaged, is taken for the trial's own.
        """
        return [claim for claim in self.claims() if claim.identity.params in (None, identity.params)]

    def _read_claim(self, label: str) -> Claim | None:
        path = self.run_dir(label) / "claim"
        try:
            record = records.read(path)
            if record is None and not path.exists() and not (path.parent / "metrics.jsonl").exists():
                return None  # else a run was here, whose claim somebody deleted
            record = record or {}
            process = Process.from_json(record["process"])
            job, node, identity = (
                str(record["job"]),
                str(record["node"]),
                Identity(record.get("study"), record.get("params")),
            )
            return Claim(int(record["attempt"]), int(record["restart"]), label, job, process, node, identity)
        except (Damaged, KeyError, TypeError, ValueError, OverflowError):
            attempt, restart = _order(label)
            return Claim(attempt, restart, label, "", NOBODY, "")

    def run_labels(self) -> list[str]:
        """The runs that the trial has, oldest first. What else lies in the folder is not ours."""
        try:
            labels = os.listdir(self.runs)  # noqa: PTH208  # asked very often
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((label for label in labels if _LABEL.fullmatch(label)), key=_order)

    def claim(self, attempt: int, job: str, restart: int, identity: Identity, synced: bool = True) -> Claim:
        """Claim attempt `attempt` for this process of `job`, or learn that it must not run.

        The first run of an attempt is k.0: creating it exclusively is what makes the attempt the job's own.
        A job that Slurm requeued keeps its id, finds its own k.0 and creates k.<restart>. Where k.0 is damaged, a job
        that was restarted takes it for its own: nobody else would go on with the attempt.

        Args:
            identity: the trial that the job was submitted for.
            synced: whether the claim outlives a power cut.

        Raises:
            NotClaimed: the trial has ended, the attempt is another job's, or a newer run exists.
        """
        if self.ended(identity):
            raise NotClaimed("the trial has ended")
        claims = self.claims()
        own = [claim for claim in claims if claim.attempt == attempt]
        if claims and (claims[-1].attempt > attempt):
            raise NotClaimed(f"attempt {claims[-1].attempt} exists")
        if own and own[0].job != job and not (own[0].damaged and restart > 0):
            raise NotClaimed(f"attempt {attempt} belongs to {own[0].job}")
        if own and own[-1].restart >= restart:
            raise NotClaimed(f"restart {own[-1].restart} of attempt {attempt} exists")
        label = f"{attempt}.{restart if own else 0}"
        own_process = Process.own()
        node = os.environ.get("SLURMD_NODENAME", own_process.host)
        claim = Claim(attempt, restart, label, job, own_process, node, identity)
        record = {
            "study": identity.study,
            "params": identity.params,
            "attempt": attempt,
            "restart": restart,
            "job": job,
            "process": own_process.to_json(),
            "node": node,
        }
        # It may be there by our own doing: a file system can report an error of what it did.
        if not records.create(self.run_dir(label) / "claim", record, synced) and self._read_claim(label) != claim:
            raise NotClaimed(f"run {label} was claimed at the same moment")
        if self.ended(identity):  # it may have ended between the first look and the claim
            raise NotClaimed("the trial has ended")
        return claim

    def superseded(self, claim: Claim) -> bool:
        """Whether `claim`'s run must stop and may not commit: a newer run of the trial exists, or the folder is gone.

        It goes when the study is put aside for a fresh one, which makes a folder of the same name, and perhaps a claim
        of the same label: so the claim is read, not only looked for.
        """
        there = self._read_claim(claim.label)
        if there is None or (not there.damaged and (there.job, there.process) != (claim.job, claim.process)):
            return True
        if there.damaged and not (self.run_dir(claim.label) / "claim").exists():
            return True
        return any(other.newer_than(claim) for other in self.claims())


def trial_dir(study: Path, number: int) -> TrialDir:
    """The folder of a trial in its study's."""
    return TrialDir(study / "trials" / f"{number:05d}")


def composed_config(run_folder: Path) -> Path | None:
    """The config that Hydra wrote of a run: in `.hydra`, unless hydra.output_subdir says otherwise, or nowhere."""
    usual = run_folder / ".hydra" / "config.yaml"
    if usual.exists():
        return usual
    others = sorted(run_folder.glob("*/hydra.yaml"))
    return next((path for other in others if (path := other.with_name("config.yaml")).exists()), None)


def trial_numbers(study: Path) -> list[int]:
    """The trials that have a folder in the study's, in order. What else lies there is not ours."""
    try:
        names = os.listdir(study / "trials")  # noqa: PTH208  # thousands, and only their names are wanted
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{5,}", name))


_LABEL = re.compile(r"[0-9]+\.[0-9]+")


def _order(label: str) -> tuple[int, ...]:
    return tuple(int(part) for part in label.split("."))
