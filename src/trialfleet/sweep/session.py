"""One driver's life: take the study, run it, hand everything over, and say how it stands."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from secrets import randbits
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from rich.console import Console

from trialfleet.config.location import project_directory
from trialfleet.errors import UserError
from trialfleet.sweep import constraints, snapshot, study_record
from trialfleet.sweep import proposer as proposing
from trialfleet.sweep import store as stores
from trialfleet.sweep.blocking_fleet import BlockingFleet
from trialfleet.sweep.budget import Account
from trialfleet.sweep.code_version import code_version
from trialfleet.sweep.conclusion import conclude, entry_point, resume_command, show_plan
from trialfleet.sweep.driver import Clock, Driver, Observer, Study
from trialfleet.sweep.fleet import Fleet
from trialfleet.sweep.interrupts import Interrupts, interruptible_sleep
from trialfleet.sweep.lease import Lease
from trialfleet.sweep.local_fleet import LocalFleet
from trialfleet.sweep.payload import is_submittable, write_payload
from trialfleet.sweep.plan import Plan, Request, allowed_changes, check, fresh
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.samplers import SamplerFactory, build_pruner
from trialfleet.sweep.slurm_fleet import SlurmFleet
from trialfleet.sweep.standings import Standings
from trialfleet.sweep.store import StudyStore
from trialfleet.sweep.study_record import StudyRecord
from trialfleet.sweep.terminal import Terminal
from trialfleet.sweep.to_mlflow import ToMlflow
from trialfleet.tracking import ingest
from trialfleet.tracking.forwarder import Study as TrackedStudy
from trialfleet.tracking.target import on_network_file_system

FLUSH_SECONDS = 60.0  # how long the end waits for MLflow


def run_session(request: Request) -> None:
    """Run or resume the study that a command asks for.

    Raises:
        UserError: something about the request is wrong, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False)
    plan = check(request)
    if OmegaConf.select(request.config, "dry_run"):
        show_plan(plan, console)
        return
    with ExitStack() as stack:
        driver, terminal = _assemble(plan, console, stack)
        interrupts = stack.enter_context(Interrupts(driver, terminal, sys.stdin.isatty() and console.is_terminal))
        driver.clock = Clock(sleep=lambda seconds: interruptible_sleep(interrupts, seconds))
        driver.recover()
        finished_before = driver.standings.finished
        with terminal:
            driver.run()
        _hand_over(driver, console)
    conclude(plan, driver, console, finished_before)


def _hand_over(driver: Driver, console: Console) -> None:
    """See to it that MLflow has everything before the driver goes; what it lacks the next driver sends."""
    mlflow = next((observer for observer in driver.observers if isinstance(observer, ToMlflow)), None)
    if mlflow is None:
        return
    state: ingest.StudyState = "FAIL" if driver.failed else "STOPPED" if driver.tracked or driver.detach else "COMPLETE"
    if not mlflow.finish(state, FLUSH_SECONDS if not driver.detach else FLUSH_SECONDS / 6):
        console.print(
            f"[yellow]note[/]  MLflow: {mlflow.problem() or 'not everything arrived'}; the same command sends the rest"
        )


def _assemble(plan: Plan, console: Console, stack: ExitStack) -> tuple[Driver, Terminal]:
    """Take the study and build the driver; what must be given back is on the stack."""
    folder, node = plan.folder, plan.request.node
    if fresh(plan.request.config):
        study_record.put_aside(folder)
    lease = Lease(folder / "driver.lock", plan.settings.lease.stale_after, plan.settings.lease.beat, _slurm_job_ended)
    lease.acquire(lambda message: console.print(f"[yellow]note[/]  {message}"))
    stack.callback(lease.release)
    record, store = _open_study(plan, lease)
    samplers = SamplerFactory(node["sampler"], plan.space, record.seed)
    n_trials = plan.settings.n_trials
    if samplers.grid_size is not None and samplers.grid_size < n_trials:
        n_trials = samplers.grid_size
    pruner = build_pruner(node.get("pruner"))
    if pruner is not None:
        store.study.pruner = pruner
    project = project_directory()
    code = snapshot.take(project, folder / "code" / record.code["digest"])
    fleets, fleet = _fleets(plan, {"PYTHONPATH": snapshot.python_path(code)})
    mlflow = _to_mlflow(plan, record, lease, stack)
    live = plan.settings.live and console.is_terminal
    terminal = Terminal(console, live, plan.metrics, mlflow.problem if mlflow else lambda: None)
    observers: list[Observer] = [terminal, *([mlflow] if mlflow else [])]
    context = snapshot.repointed(plan.request.hydra_context, project, code)
    payload = write_payload(folder / ".submitit", context, plan.request.task_function, plan.request.config)
    driver = Driver(
        study=Study(
            folder,
            folder / ".submitit",
            [record.uid, *record.former_uids],
            plan.metrics[0] if pruner is not None else None,
        ),
        store=store,
        proposer=proposing.Proposer(
            store,
            record.uid,
            plan.space,
            samplers,
            plan.settings.enqueue,
            plan.settings.custom_search_space,
            plan.request.config,
        ),
        pruner=pruner,
        settings=plan.settings,
        limits=_limits(plan),
        n_trials=n_trials,
        fleets=fleets,
        fleet=fleet,
        payload=payload,
        observers=observers,
        standings=Standings(plan.directions),
        constraints=constraints.parse(plan.settings.constraints),
        account=Account.open(folder / "budget.json", _devices(plan.request.launcher)),
    )
    stack.callback(driver.account.save)
    return driver, terminal


def _open_study(plan: Plan, lease: Lease) -> tuple[StudyRecord, StudyStore]:
    folder, storage = plan.folder, plan.request.node.get("storage")
    code = code_version()
    record = plan.record
    if record is None:
        sampler = str(OmegaConf.select(OmegaConf.create(dict(plan.request.node)), "sampler._target_"))
        masked = stores.mask_password(storage)
        record = study_record.create(plan.name, folder, randbits(32), sampler, masked, plan.identity, code)
    else:
        record = study_record.at_home(record, folder)
        record = _with_code(record, code, "code" in allowed_changes(plan.request.config))
    journal = folder / "optuna_journal.log"
    opened = stores.open_storage(stores.instantiated(storage), journal, lease.check)
    store = StudyStore(opened, plan.name, plan.directions, lease.check, None if storage else journal)
    store.belong(record.uid, folder)
    study_record.write(folder / "study.yaml", record)
    return record, store


def _with_code(record: StudyRecord, today: dict[str, str], take_todays: bool) -> StudyRecord:
    """Jobs run the study's own copy of the code; a clear word when today's differs."""
    if record.code.get("digest") == today["digest"]:
        return record
    if take_todays:
        return replace(record, code=today)
    logging.getLogger(__name__).warning(
        "the code has changed since this study began (%s → %s): its trials go on with the study's own copy; "
        "'study.allow_changes=[code]' takes today's",
        record.code.get("digest"),
        today["digest"],
    )
    return record


def _devices(launcher: Launcher) -> int:
    """Devices that a trial occupies, for the budget of device-hours: its GPUs, or 1 for each of its tasks."""
    params = getattr(launcher, "params", {})
    tasks = int(params.get("tasks_per_node") or 1)
    per_node = int(params.get("gpus_per_node") or 0) or tasks * int(params.get("gpus_per_task") or 1)
    return per_node * int(params.get("nodes") or 1)


def _limits(plan: Plan) -> Limits:
    timeouts = getattr(plan.request.launcher, "params", {}).get("max_num_timeout")
    return Limits(plan.settings.max_retries, plan.settings.max_unclaimed, timeouts or None)


def _fleets(plan: Plan, environment: Mapping[str, str]) -> tuple[dict[str, Fleet], Fleet]:
    """The fleet for new jobs, and those that follow jobs which an earlier driver started with another launcher."""
    launcher, folder = plan.request.launcher, plan.folder
    watch = plan.settings.watch
    settle = watch.settle_network if on_network_file_system(folder) else watch.settle_local
    kind = launcher._EXECUTOR if is_submittable(launcher) else "blocking"  # type: ignore[attr-defined]
    parameters: dict[str, Any] = getattr(launcher, "params", {})  # upstream's launchers that submit all have them
    local = LocalFleet(parameters if kind == "local" else None, environment)
    fleets: dict[str, Fleet] = {"local": local}
    if kind == "slurm":
        slurm = SlurmFleet(
            slurm_parameters(parameters, folder),
            parameters.get("python"),
            parameters["array_parallelism"],
            folder / ".submitit",
            environment,
            settle,
        )
        return {**fleets, "slurm": slurm}, slurm
    if shutil.which("squeue"):
        fleets["slurm"] = SlurmFleet(None, None, 0, folder / ".submitit", {}, settle)
    if kind == "blocking":
        blocking = BlockingFleet(launcher)
        return {**fleets, "blocking": blocking}, blocking
    return fleets, local


def slurm_parameters(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The launcher's node as submitit's parameters of a Slurm script, converted by submitit itself."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    shared = set(BaseQueueConf.__dataclass_fields__)
    not_script = {"submitit_folder", "max_num_timeout", "python"}
    wanted = {key if key in shared else f"slurm_{key}": v for key, v in params.items() if key not in not_script}
    executor = submitit.AutoExecutor(folder=folder / ".submitit", cluster="slurm")
    try:
        executor.update_parameters(**wanted)
    except (NameError, ValueError) as error:
        raise UserError(f"hydra.launcher: {error}", "see conf/hydra/launcher/submitit_slurm.yaml") from None
    return dict(executor._executor.parameters)


def _to_mlflow(plan: Plan, record: StudyRecord, lease: Lease, stack: ExitStack) -> ToMlflow | None:
    """The way to MLflow, which also catches up with what earlier drivers did not get there; None without a URI."""
    if plan.target is None:
        return None
    tags = ingest.code_tags(entry_point(), record.code.get("commit"), record.code["digest"])
    tracked = TrackedStudy(
        plan.name,
        record.uid,
        dict(zip(plan.metrics, plan.directions, strict=True)),
        tags,
        {key: str(value) for key, value in record.identity.items() if key.startswith("space.")},
    )
    poll = float(OmegaConf.select(plan.request.config, "tracking.poll_interval"))
    ingester = stack.enter_context(ingest.Ingester(plan.folder, plan.target, tracked, poll, lease.held))
    return ToMlflow(ingester, plan.metrics, tags, resume_command())


def _slurm_job_ended(job: str) -> bool | None:
    """Whether the Slurm job of another driver is over; None if Slurm cannot tell."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
    if done.returncode != 0:
        return True if "Invalid job id" in done.stderr else None
    return not done.stdout.strip()
