"""Who a process is to its launcher: in a claim by this name the driver finds the job again."""

import pytest

from trialfleet.sweep.fleets.local_processes import MARKER
from trialfleet.trial.process import Process
from trialfleet.worker.job_environment import JobEnvironment

SLURM = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        (SLURM, JobEnvironment("slurm:7", 0, 0, 0, "7")),
        (
            {**SLURM, "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3"},
            JobEnvironment("slurm:5_2", 3, 2, 0, "5_2"),
        ),
        ({**SLURM, "SLURM_PROCID": "1"}, JobEnvironment("slurm:7", 0, 0, 1, "7")),
        ({"TRIALFLEET_CLAIMANT": "pbs:12.host"}, JobEnvironment("pbs:12.host", 0, 0, 0, None)),
        (
            {
                **SLURM,
                "TRIALFLEET_CLAIMANT": "pbs:12",
                "TRIALFLEET_ELEMENT": "4",
                "TRIALFLEET_RESTART": "1",
                "TRIALFLEET_RANK": "2",
            },
            JobEnvironment("pbs:12", 1, 4, 2, None),
        ),
    ],
)
def test_a_launcher_says_who_its_job_is(environ: dict[str, str], wanted: JobEnvironment) -> None:
    assert JobEnvironment.read(environ) == wanted


@pytest.mark.parametrize("inside", [{}, {"SLURM_JOB_ID": "7"}], ids=["a laptop", "a driver in a Slurm job"])
def test_a_local_job_is_a_process(inside: dict[str, str]) -> None:
    own = Process.own()
    found = JobEnvironment.read({**inside, "TRIALFLEET_ELEMENT": "3", MARKER: "0123.3"})
    assert found == JobEnvironment(f"local:{own.host}:{own.boot_id}:{own.pid}:{own.start_time}", 0, 3, 0, None)
