"""What the documents say can be done can be done: each command of each page runs, once wherever it stands."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import trialfleet
from tests.tasks.commands import Commands
from tests.training.harness import SMALL_MODEL
from tests.workloads.mvfoul.rendered import FEW

from .conftest import Run
from .pages import DOCS, PAGES, ROOT, commands_of
from .test_asr import COMMANDS as SPEECH
from .test_export import COMMANDS as EXPORTS
from .test_grpo import COMMANDS as GRPO
from .test_memory import PUBLISHED
from .test_mvfoul import COMMANDS as FOULS
from .test_own_workload import COMMANDS as OWN_WORKLOAD

QUICK = ("+experiment=quick_test",)
FEW_STEPS = ("training.max_steps=2", "training.eval_every=2", "training.global_batch=4", "training.eval_batch=8")
SMALL_FOULS = ("model.widths=[8,8]", "model.norm_groups=4")
EVERY = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))

LARGE_VIDEO = (  # compiles for minutes
    "python -m pipelines.train --dry-run workload=mvfoul model=mvit dataset.frames=16 dataset.size=224 "
    "training.compute_dtype=bfloat16 training.remat=full training.global_batch=8 training.eval_batch=8 "
    "runtime.device=h100"
)

# Commands that need a cluster, install something, or are what another test is about; and the test that runs them.
CLUSTER = "tests/cluster/test_slurm_cluster.py::"
CONTRACT = "tests/resume_contract/test_contract.py::test_each_point_holds"
ELSEWHERE = {
    "make sweep": "tests/end_to_end/test_learning.py::test_the_default_study_learns",
    "make test": "tests/end_to_end/test_readme.py::test_a_target_of_make_is_there",
    "make cluster-up": f"{CLUSTER}test_the_command_line_does_all_of_it",
    "make cluster-down": f"{CLUSTER}test_the_command_line_does_all_of_it",
    "export SLURM_CONF=/tmp/trialfleet-cluster-$(id -u)/slurm.conf": (
        f"{CLUSTER}test_commands_find_the_cluster_by_slurm_conf"
    ),
    "python -m pipelines.sweep -m hydra/sweeper=optuna hydra/launcher=submitit_slurm hydra.sweeper.n_trials=6": (
        "tests/cluster/test_main_job.py::test_a_study_on_two_nodes"
    ),
    "sbatch jobs/sweep.sbatch -m hydra/sweeper=optuna hydra/launcher=submitit_slurm": (
        f"{CLUSTER}test_a_driver_near_its_time_limit_detaches_and_goes_on_later"
    ),
    PUBLISHED: "tests/end_to_end/test_memory.py::test_a_published_model_on_four_simulated_devices",
    LARGE_VIDEO: "benchmarks/proofs/test_compiled.py::test_a_large_video_network_fits",
    **dict.fromkeys(
        EXPORTS, "tests/end_to_end/test_export.py::test_a_training_is_exported_by_the_commands_of_the_page"
    ),
    **dict.fromkeys(SPEECH, "tests/end_to_end/test_asr.py::test_real_speech_is_fetched_and_trained_on"),
    **dict.fromkeys(FOULS, "tests/end_to_end/test_mvfoul.py::test_clips_are_made_and_trained_on"),
    **dict.fromkeys(GRPO, "tests/end_to_end/test_grpo.py::test_from_nothing_to_a_policy_and_its_scores"),
    "pip install trialfleet": "tests/end_to_end/test_wheel.py::test_an_application_runs_from_the_wheel_alone",
    "python train.py -m hydra/sweeper=trialfleet hydra/launcher=submitit_slurm 'lr=tag(log,interval(1e-5,1e-2))'": (
        "tests/cluster/test_own_app.py::test_a_job_that_is_lost_and_a_driver_that_is_killed"
    ),
    "python -m pipelines.dashboard": (
        "tests/tracking/test_dashboard.py::test_the_dashboard_shows_the_best_trial_and_leaves_nothing_behind"
    ),
    "python -m pipelines.doctor hydra/launcher=submitit_slurm": (
        "tests/cluster/test_doctor.py::test_a_cluster_that_is_ready_and_one_that_is_not"
    ),
    "cd examples/digits_mlp": "tests/end_to_end/test_own_workload.py::test_a_command_of_the_page",
    "python -m tests.resume_contract": CONTRACT,
    "python -m tests.resume_contract trialfleet": CONTRACT,
    "python -m pytest tests/resume_contract": CONTRACT,
}

# Commands about one study, in the order in which they are run in one folder, with what they show there. Only the
# second one starts trials; the others say what they would do to its study.
ONE_STUDY = {
    "python -m pipelines.sweep --dry-run": "8 trials would be started",
    "python -m pipelines.sweep": "1 of 1 trials (1 complete)",
    "python -m pipelines.sweep hydra.sweeper.n_trials=16": "1 of 16 trials have ended",
    "python -m pipelines.sweep training.max_steps=900 'study.allow_changes=[training.max_steps]'": "goes on with",
    "python -m pipelines.sweep study.fresh=true": "a new study",
    "python -m pipelines.sweep study.rebuild=true": "goes on with",
}
# Commands of docs/studies.md on that study, in the order in which they are run after these, with what they show.
OF_STUDY = {
    "python -m pipelines.study list": "asr-asr_tiny  finished  1/1",
    "python -m pipelines.study show asr-asr_tiny": "1 of 1 trials have ended",
    "python -m pipelines.study show asr-asr_tiny 0": "trial 0 of asr-asr_tiny",
    "python -m pipelines.study trials asr-asr_tiny --sort val/wer": "COMPLETE",
    "python -m pipelines.study best asr-asr_tiny": "optimizer.learning_rate = ",
    "python -m pipelines.study compare asr-asr_tiny asr-asr_tiny": "trials to the best",
    "python -m pipelines.study watch asr-asr_tiny": "1/1 done",
    "python -m pipelines.study report asr-asr_tiny": "sweeps/asr-asr_tiny/report.html",
    "python -m pipelines.study report asr-asr_tiny asr-asr_tiny --output both.html": "both.html",
    "python -m pipelines.study export asr-asr_tiny": "python -m pipelines.train +experiment=asr-asr_tiny",
    "python -m pipelines.train +experiment=asr-asr_tiny": "learning_rate",
    "python -m pipelines.study rerun asr-asr_tiny 0": "trial 0 came out the same",
    "python -m pipelines.study reconcile asr-asr_tiny": "0 were told now",
    "python -m pipelines.study rebuild asr-asr_tiny": "1 trials from their files",
    "python -m pipelines.study retry asr-asr_tiny 0": "the next one is asked",
    "python -m pipelines.study enqueue asr-asr_tiny optimizer.learning_rate=1e-3": "the next one is asked",
    "python -m pipelines.study cancel asr-asr_tiny 1": "has no trial 1",
    "python -m pipelines.study stop asr-asr_tiny": "has no driver that could be stopped",
    "python -m pipelines.study archive asr-asr_tiny": "sweeps/asr-asr_tiny.tar.gz",
    "python -m pipelines.study delete asr-asr_tiny": "is deleted",
}
REFUSED = {command: 2 for command in OF_STUDY if " cancel " in command or " stop " in command}
# What these search over would compile anew, or as ONE_STUDY does: that it is a space is seen without.
SPACES = (
    "study_name=rates",
    "model=choice(mvit_tiny,resnet3d_tiny)",
    "+search_space=asr_small",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))",
)
ONLY_CHECKED = [command for command in EVERY if any(space in command for space in SPACES)]
CHECKPOINTS = [command for command in EVERY if "pipelines.evaluate" in command and command not in [*GRPO, *SPEECH]]
OWN_APP = [command for command in EVERY if command.startswith("python train.py ") and command not in ELSEWHERE]
SINGLE = [
    command
    for command in EVERY
    if command.startswith("python -m pipelines.")
    and command not in [*ELSEWHERE, *OWN_WORKLOAD, *ONE_STUDY, *OF_STUDY, *CHECKPOINTS]
]


def test_each_command_is_run_by_a_test() -> None:
    run = [*ELSEWHERE, *OWN_WORKLOAD, *ONE_STUDY, *OF_STUDY, *CHECKPOINTS, *OWN_APP, *SINGLE]
    assert sorted(run) == sorted(EVERY)


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_test_that_runs_a_command_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def shortened(command: str) -> list[str]:
    """What is typed, so changed that it takes seconds: fewer steps and trials, none where Slurm would run them."""
    words = shlex.split(command)[2:]
    if command in ONLY_CHECKED or re.search("hydra/launcher=[a-z_]*slurm", command):
        return [*words, "--dry-run"]
    few = FEW if "workload=mvfoul" in words else ()
    small = {"mvfoul": SMALL_FOULS, None: SMALL_MODEL}.get(next(iter(re.findall(r"workload=(\w+)", command)), None), ())
    small = () if "model=" in command else small
    quick = (*QUICK, *few, *(FEW_STEPS if few else ()), *small)
    if words[0] == "pipelines.sweep":
        return [*words, *quick, "hydra.sweeper.n_trials=1"]
    if words[0] == "pipelines.train" and not {"--cfg", "--info", "--dry-run"} & set(words):
        return [*words, *(word for word in quick if word not in words)]
    return [*words, *few]


@pytest.fixture
def slurm_commands(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's commands are on PATH, as on a login node; a dry run calls none of them."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.slow
@pytest.mark.xdist_group("documents")  # one worker has the host that all are forked from
@pytest.mark.usefixtures("database", "slurm_commands")
@pytest.mark.parametrize("command", SINGLE)
def test_a_command_by_itself(run_quickly: Run, command: str) -> None:
    run_quickly(*shortened(command))


@pytest.mark.slow
@pytest.mark.xdist_group("documents")
@pytest.mark.usefixtures("database")
def test_the_commands_about_one_study_and_its_checkpoints(run_quickly: Run) -> None:
    for command, said in ONE_STUDY.items():
        words = shlex.split(command)[2:]
        if command == "python -m pipelines.sweep":
            words += [*QUICK, "hydra.sweeper.n_trials=1"]
        elif "--dry-run" not in words:
            words += [*QUICK, "--dry-run"]
        assert said in run_quickly(*words).stdout, command
    for command in CHECKPOINTS:
        shown = run_quickly(*shlex.split(command)[2:], "training.limit_eval_batches=1").stdout
        record = json.loads(shown[shown.index("{") :]) if "format=json" in command else None
        assert "val/wer" in shown if record is None else "test/wer" in record["metrics"]
    shutil.copytree(ROOT / "conf", "conf")
    for command, said in OF_STUDY.items():
        words = shlex.split(command)[2:]
        if "delete" in words:
            shutil.unpack_archive("sweeps/asr-asr_tiny.tar.gz", "sweeps", filter="data")
        # The project's own conf/ stays as it is: other tests read it.
        more = {"export": ["--conf", "conf"], "pipelines.train": ["--config-dir", "conf", "--cfg", "job"]}
        more |= {"archive": ["--yes"], "delete": ["--yes"]}
        extra = [option for word in words for option in more.get(word, [])]
        assert said in run_quickly(*words, *extra, code=REFUSED.get(command, 0)).stdout, command


@pytest.mark.slow
@pytest.mark.parametrize("command", OWN_APP)
@pytest.mark.xdist_group("documents")
def test_a_command_for_an_application_of_ones_own(
    tmp_path: Path, tables: Path, commands: Commands, command: str
) -> None:
    app = shutil.copytree(ROOT / "examples" / "plain", tmp_path / "app")
    shutil.copy(tables, app / "mlflow.db")
    words = [*shlex.split(command)[1:], "hydra.sweeper.n_trials=2", "epochs=3"]
    code, shown = commands.run(*words, place=app, said=tmp_path / "said")
    assert code == 0, shown
    assert ("nothing was started" if "dry_run" in command else "2 of 2 trials") in shown


def test_each_public_name_has_a_section() -> None:
    sections = re.findall(r"^## (\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(trialfleet.__all__)


def test_links_lead_somewhere() -> None:
    """In the files as they lie; those of the built pages are Sphinx's to check."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            made = "reference" in Path(link).parts  # when the site is built
            assert made or (page.parent / link).exists(), f"{page.name}: {link}"


# ---------------------------------------------------------------- what is said of the code


def texts_of_the_code() -> list[str]:
    """Each text in it, with … for what differs."""
    found = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sd]", "…", node.value))
    return found


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^(`+)(?: ?)(.+?)(?: ?)\1\n: ", page, re.MULTILINE)
    assert len(messages) > 40
    texts = texts_of_the_code()
    for _, message in messages:
        parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
        assert any(re.search(r"[^`]*".join(parts), text, re.DOTALL) for text in texts), message


def test_the_table_of_imports_is_right() -> None:
    table = (DOCS / "architecture.md").read_text()
    for part, named in re.findall(r"^\| `(\w+)` \| ([^|]*)\|", table, re.MULTILINE):
        imported = set()
        for path in (ROOT / "src" / "trialfleet" / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trialfleet."):
                    imported.add(str(node.module).split(".")[1])
        assert sorted(re.findall(r"\w+", named)) == sorted(imported - {part}), part
