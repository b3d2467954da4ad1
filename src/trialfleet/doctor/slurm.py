"""The Slurm cluster that this machine submits to: its commands, its controller, its partitions, the user's limits."""

import getpass
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from trialfleet.compat.submitit import batch_script
from trialfleet.doctor.asked import Asked
from trialfleet.doctor.findings import Finding, fail, note, ok
from trialfleet.sweep.fleets import slurm_answers, slurm_command, slurm_memory
from trialfleet.sweep.fleets.slurm import script_parameters
from trialfleet.sweep.fleets.slurm_answers import NodeGroup

SECONDS = 12.0  # for one command to answer: a controller that is away keeps some waiting for nine

NEEDED = ("sbatch", "squeue", "scancel", "srun")
_USED = ("sinfo", "scontrol", "sacct")
_NO_SLURM = "run this where Slurm is installed, or use hydra/launcher=submitit_local"


def ask(*command: str) -> slurm_command.Done | None:
    return slurm_command.run(*command, seconds=SECONDS)


class Slurm:
    """What of the cluster is looked at. What follows from a fault that was told already is not told again."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    @property
    def there(self) -> bool:
        return shutil.which("squeue") is not None

    @cached_property
    def answers(self) -> bool:
        """Whether a controller does."""
        if not self.there:
            return False
        if shutil.which("scontrol") is None:
            done = ask("squeue", "-h", "--me")
            return done is not None and done.returncode == 0
        done = ask("scontrol", "ping")
        return done is not None and re.search(r"\bis UP\b", done.stdout) is not None

    @cached_property
    def groups(self) -> list[NodeGroup]:
        done = ask("sinfo", "-h", "-o", slurm_answers.PARTITIONS_FORMAT)
        return slurm_answers.partitions(done.stdout) if done is not None and done.returncode == 0 else []

    def commands(self) -> Iterator[Finding]:
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if len(missing) == len(NEEDED):
            if self._asked.needs_slurm:
                yield fail("slurm", f"{', '.join(missing)} cannot be found on PATH", _NO_SLURM)
            else:
                yield note("slurm", "there is none on this machine", "nothing, where trials are to run here")
            return
        unused = [name for name in _USED if shutil.which(name) is None]
        if missing:
            yield self._trouble("slurm", f"{', '.join(missing)} cannot be found on PATH", _NO_SLURM)
        elif unused:
            fix = "nothing: studies do without, and hear less of how jobs ended"
            yield note("slurm", f"{self._version()}, without {', '.join(unused)}", fix)
        else:
            yield ok("slurm", f"{self._version()}: {', '.join((*NEEDED, *_USED))}")

    def controller(self) -> Iterator[Finding]:
        if not self.there:
            return
        if self.answers:
            done = ask("scontrol", "ping") if shutil.which("scontrol") else None
            yield ok("slurm.controller", done.stdout.strip() if done is not None else "answers squeue")
            return
        done = ask("scontrol", "ping") or ask("squeue", "-h", "--me")
        yield self._trouble(
            "slurm.controller", _last_words(done), "ask who runs the cluster, or see whether SLURM_CONF names it"
        )

    def partitions(self) -> Iterator[Finding]:
        if not self.answers:
            return
        if not self.groups:
            yield self._trouble("slurm.partitions", "sinfo shows none", "ask who runs the cluster which you may use")
            return
        found = "; ".join(_described(name, list(groups)) for name, groups in groupby(self.groups, _partition))
        if any(group.up and group.in_service for group in self.groups):
            yield ok("slurm.partitions", found)
        else:
            yield self._trouble(
                "slurm.partitions", f"no node takes jobs: {found}", "ask who runs the cluster: sinfo -R"
            )

    def limits(self) -> Iterator[Finding]:
        """What accounting allows the user."""
        if not self.answers:
            return
        config = self._config()
        sizes = ", ".join(f"{name}={config[name]}" for name in ("MaxArraySize", "MaxJobCount") if name in config)
        if "slurmdbd" not in config.get("AccountingStorageType", ""):
            yield ok("slurm.limits", f"there is no accounting, so no limits of a user's: {sizes or 'none'}")
            return
        columns = ("Account", "Partition", "QOS", "MaxJobs", "MaxSubmit", "MaxWall", "MaxTRES", "GrpTRES")
        query = ("show", "assoc", f"user={getpass.getuser()}", f"format={','.join(columns)}")
        done = ask("sacctmgr", "-n", "-P", *query)
        if done is None or done.returncode != 0:
            fix = "nothing: squeue alone tells then how jobs end, and limits show as refusals"
            yield note("slurm.limits", f"accounting does not say: {_last_words(done)}; {sizes}", fix)
            return
        rows = [dict(zip(columns, line.split("|"), strict=False)) for line in done.stdout.splitlines() if "|" in line]
        associations = [" ".join(f"{key}={value}" for key, value in row.items() if value) for row in rows]
        if associations:
            yield ok("slurm.limits", f"{'; '.join(associations)}; {sizes}")
        else:
            fix = "ask who runs the cluster for an account, if jobs are refused"
            yield note("slurm.limits", f"accounting has no association of {getpass.getuser()}; {sizes}", fix)

    def launcher(self) -> Iterator[Finding]:
        """Whether Slurm would take the jobs of the configured launcher."""
        if not (self._asked.on_slurm and self.answers):
            return
        with tempfile.TemporaryDirectory() as folder:
            parameters = script_parameters(self._asked.launcher, Path(folder))
            wrong = self._misfit(parameters)
            script = Path(folder) / "trial.sh"
            script.write_text(batch_script("true", Path(folder), **parameters))
            # --test-only asks the controller about all of it, the account and the time limit too, and submits nothing.
            done = slurm_command.run(
                "sbatch", "--test-only", str(script), environment=slurm_command.outside_of_jobs(), seconds=SECONDS
            )
        if wrong is not None:
            yield fail("slurm.launcher", *wrong)
        elif done is None:
            yield fail("slurm.launcher", "sbatch --test-only does not answer", "ask who runs the cluster")
        elif done.returncode != 0:
            fix = "correct hydra.launcher (partition, gres, account, timeout_min, mem_gb, …)"
            yield fail("slurm.launcher", f"sbatch would refuse a trial's job: {done.stderr.strip()}", fix)
        else:
            yield ok("slurm.launcher", f"a trial's job would be taken: {done.stderr.strip()}")

    def _misfit(self, parameters: Mapping[str, Any]) -> tuple[str, str] | None:
        """What of partition and GPUs does not fit, with what to do; where Slurm's own words would say less."""
        if not self.groups:
            return None
        named = str(slurm_memory.flat(parameters).get("partition") or "")
        names = list(dict.fromkeys(group.partition for group in self.groups))
        chosen = [group for group in self.groups if (group.partition in named.split(",") if named else group.default)]
        unknown = [name for name in named.split(",") if named and name not in names]
        if unknown:
            found = f"hydra.launcher.partition={named}: there is no partition {', '.join(unknown)}"
            return found, f"choose one of {', '.join(names)}"
        if not chosen:
            return (
                "hydra.launcher.partition is null, and no partition is the default",
                f"choose one of {', '.join(names)}",
            )
        wanted, most = slurm_memory.gpus(parameters), max(group.gpus for group in chosen)
        where = named or f"{chosen[0].partition} (the default)"
        if wanted > most:
            found = f"a trial asks for {wanted} GPUs of a node, and nodes of partition {where} have {most}"
            return found, "lower hydra.launcher.gres, gpus_per_node or gpus_per_task, or choose another partition"
        if not any(group.up and group.in_service for group in chosen):
            return f"no node of partition {where} takes jobs now", f"choose one of {', '.join(names)}, or wait"
        return None

    def _trouble(self, name: str, found: str, fix: str) -> Finding:
        """A fault, where Slurm is wanted; else only worth knowing."""
        return (fail if self._asked.needs_slurm else note)(name, found, fix)

    def _version(self) -> str:
        done = ask("squeue", "--version")
        return done.stdout.strip() if done is not None and done.stdout.strip() else "a Slurm of unknown version"

    def _config(self) -> dict[str, str]:
        done = ask("scontrol", "show", "config")
        pairs = (line.partition("=") for line in (done.stdout if done is not None else "").splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs}


def _last_words(done: slurm_command.Done | None) -> str:
    """The end of what a command said."""
    if done is None:
        return "no answer"
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def _partition(group: NodeGroup) -> str:
    return group.partition


def _described(name: str, groups: list[NodeGroup]) -> str:
    """A partition in words: `low* up, limit infinite: 2 idle (gpu:2)`."""
    first = groups[0]
    nodes = ", ".join(f"{one.nodes} {one.state}" + (f" ({one.gres})" if one.gres else "") for one in groups)
    star = "*" if first.default else ""
    return f"{name}{star} {'up' if first.up else 'not up'}, limit {first.time_limit}: {nodes}"
