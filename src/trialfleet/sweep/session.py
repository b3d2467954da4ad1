"""One driver's life: check everything, take the study, run it, and say how it stands.

Whatever can be refused is refused before anything is made: the space, the sampler, the configs that trials
would get, the launcher, the tracking server's address, the storage, a study that was another one.
"""

import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import randbits
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from trialfleet.config.location import project_directory
from trialfleet.errors import UserError
from trialfleet.sweep import constraints, snapshot, study_record
from trialfleet.sweep import proposer as proposing
from trialfleet.sweep import settings as settings_of
from trialfleet.sweep import space as spaces
from trialfleet.sweep import standings as standings_of
from trialfleet.sweep import store as stores
from trialfleet.sweep.blocking_fleet import BlockingFleet
from trialfleet.sweep.budget import Account
from trialfleet.sweep.code_version import code_version
from trialfleet.sweep.driver import Clock, Driver, Observer, Study
from trialfleet.sweep.fleet import Fleet
from trialfleet.sweep.interrupts import Interrupts, interruptible_sleep
from trialfleet.sweep.lease import Lease
from trialfleet.sweep.local_fleet import LocalFleet
from trialfleet.sweep.payload import is_submittable, write_payload
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.samplers import SamplerFactory, build_pruner
from trialfleet.sweep.slurm_fleet import SlurmFleet
from trialfleet.sweep.space import Space
from trialfleet.sweep.standings import Standings
from trialfleet.sweep.store import StudyStore
from trialfleet.sweep.study_record import StudyRecord
from trialfleet.sweep.terminal import Terminal, brief
from trialfleet.sweep.to_mlflow import ToMlflow
from trialfleet.tracking import ingest
from trialfleet.tracking.forwarder import Study as TrackedStudy
from trialfleet.tracking.target import Target, on_network_file_system, resolve

FLUSH_SECONDS = 60.0  # how long the end waits for MLflow
PROBES = 8  # configs that are composed before the first trial to see whether trials can be


@dataclass(frozen=True)
class Request:
    """What a command asks for: the sweeper's node and what Hydra gives a sweeper.

    Attributes:
        node: `hydra.sweeper`, every key.
        config: the composed config, hydra included.
        arguments: the task overrides of the command line.
    """

    node: Mapping[str, Any]
    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    launcher: Launcher
    arguments: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """A request that was checked; nothing is made yet."""

    request: Request
    settings: settings_of.Settings
    folder: Path
    name: str
    directions: list[str]
    metrics: list[str]
    space: Space
    identity: dict[str, Any]
    record: StudyRecord | None
    target: Target | None


def run_session(request: Request) -> None:
    """Run or resume the study that a command asks for.

    Raises:
        UserError: something about the request is wrong, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False)
    plan = check(request)
    if OmegaConf.select(request.config, "dry_run"):
        _show_plan(plan, console)
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
    _conclude(plan, driver, console, finished_before)


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


# -------------------------------------------------------------------- check


def check(request: Request) -> Plan:
    """Refuse what can be refused; makes nothing."""
    node = request.node
    folder = settings_of.sweep_folder(request.config)
    settings = settings_of.settings({key: value for key, value in node.items() if key not in _TYPED_ELSEWHERE})
    directions = _directions(request)
    space = _space(request)
    SamplerFactory(node["sampler"], space, 0)
    proposing.imported(settings.custom_search_space)
    constraints.parse(settings.constraints)
    for point in settings.enqueue:
        proposing.known_point(point, space, settings.custom_search_space)
    if build_pruner(node.get("pruner")) is not None and len(directions) > 1:
        raise UserError(
            "hydra/sweeper/pruner: a pruner judges one objective, this study has several",
            "set hydra/sweeper/pruner=none, or optimise one metric",
        )
    _check_launcher(request.launcher)
    _check_configs(request, space)
    target = _target(request.config)
    name = node.get("study_name") or folder.name
    identity = _identity(request.config, space, directions)
    record = None if _fresh(request.config) else study_record.read(folder / "study.yaml")
    if record is not None:
        record = study_record.accept(record, identity, _allowed(request.config))
    if node.get("storage") is not None:  # opened before the folder is made, so that a refusal leaves nothing
        stores.open_storage(stores.instantiated(node["storage"]), folder, lambda: None)
    metrics = _metrics(request.config, len(directions))
    return Plan(request, settings, folder, name, directions, metrics, space, identity, record, target)


_TYPED_ELSEWHERE = ("sampler", "pruner", "storage", "direction", "study_name", "params", "default_params")


def _directions(request: Request) -> list[str]:
    directions = settings_of.directions(request.node["direction"])
    wanted = OmegaConf.select(request.config, "objective.direction")
    if wanted is not None and settings_of.directions(wanted) != directions:
        raise UserError(
            f"hydra.sweeper.direction={','.join(directions)} contradicts objective.direction="
            f"{','.join(settings_of.directions(wanted))}",
            "set objective.direction alone: the sweeper follows it",
        )
    return directions


def _metrics(config: DictConfig, count: int) -> list[str]:
    """Names of the objectives; a task of somebody else's that names none has `objective`."""
    named = OmegaConf.select(config, "objective.metric")
    if named is None:
        return ["objective"] if count == 1 else [f"objective_{index}" for index in range(count)]
    names = [str(named)] if isinstance(named, str) else [str(item) for item in named]
    if len(names) != count:
        raise UserError(
            f"objective.metric names {len(names)} and objective.direction {count}", "give one direction for each metric"
        )
    return names


def _space(request: Request) -> Space:
    """The space of the command; if it names none, the workload's default one."""
    node = request.node
    space = spaces.parse([*spaces.arguments_of(node["params"]), *request.arguments])
    nothing_given = node["params"] is None and not space.distributions and node["custom_search_space"] is None
    if nothing_given and node.get("default_params"):
        space = spaces.parse([*spaces.arguments_of(node["default_params"]), *request.arguments])
    if not space.distributions and node["custom_search_space"] is None:
        raise UserError(
            "the search space is empty: hydra.sweeper.params and the command line vary nothing",
            "add for example 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))' or +search_space=asr_small",
        )
    return space


def _check_launcher(launcher: Launcher) -> None:
    kind = getattr(launcher, "_EXECUTOR", None)
    if kind == "slurm":
        missing = [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]
        if missing:
            raise UserError(
                f"hydra/launcher=submitit_slurm: {', '.join(missing)} cannot be found on PATH",
                "run this where Slurm is installed, or use hydra/launcher=submitit_local (make cluster-up gives a "
                "test cluster)",
            )


def _check_configs(request: Request, space: Space) -> None:
    """Compose the configs of a few points of the space, so that a misspelt key fails here and not in each job."""
    judge: Callable[[DictConfig], None] | None = getattr(request.task_function, "check", None)
    for overrides in proposing.probes(space)[:PROBES]:
        config = request.hydra_context.config_loader.load_sweep_config(request.config, list(overrides))
        if judge is not None:
            judge(config)


def _target(config: DictConfig) -> Target | None:
    uri = OmegaConf.select(config, "tracking.uri")
    if uri is None:
        return None
    return resolve(str(uri), str(config.tracking.experiment), Path.cwd())


def _identity(config: DictConfig, space: Space, directions: Sequence[str]) -> dict[str, Any]:
    """What makes this study this one: see `study_record`."""
    task = OmegaConf.to_container(config, resolve=False)
    assert isinstance(task, dict)
    plain = {key: value for key, value in task.items() if key not in ("hydra", "tracking", "study", "dry_run")}
    flat = study_record.flat(plain)  # type: ignore[arg-type]  # OmegaConf's keys are strings here
    varied = [name.lstrip("+").partition("@")[0] for name in space.distributions]
    kept = {k: v for k, v in flat.items() if not any(k == name or k.startswith(f"{name}.") for name in varied)}
    texts = stores.distribution_texts(space.distributions)
    return {**kept, **{f"space.{name}": text for name, text in texts.items()}, "direction": ",".join(directions)}


def _fresh(config: DictConfig) -> bool:
    return bool(OmegaConf.select(config, "study.fresh"))


def _allowed(config: DictConfig) -> list[str]:
    return [str(key) for key in OmegaConf.select(config, "study.allow_changes") or ()]


def _show_plan(plan: Plan, console: Console) -> None:
    """What --dry-run shows of a sweep: everything was checked, nothing is made."""
    settings = plan.settings
    state = "a new study" if plan.record is None else f"goes on with the study begun {plan.record.created}"
    lines = [
        f"study {plan.name!r} in {plan.folder}: {state}",
        f"{settings.n_trials} trials, {settings.n_jobs} at a time, launcher {type(plan.request.launcher).__name__}",
        *(f"{direction} {metric}" for metric, direction in zip(plan.metrics, plan.directions, strict=True)),
        *(f"  {name} ~ {distribution}" for name, distribution in plan.space.distributions.items()),
        *(f"  {override}" for override in plan.space.fixed.values()),
        "the config of a trial has been composed and checked; nothing was started",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


# -------------------------------------------------------------------- assemble


def _assemble(plan: Plan, console: Console, stack: ExitStack) -> tuple[Driver, Terminal]:
    """Take the study and build the driver; what must be given back is on the stack."""
    folder, node = plan.folder, plan.request.node
    if _fresh(plan.request.config):
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
    mlflow = _to_mlflow(plan, record, stack)
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
        record = _with_code(record, code, "code" in _allowed(plan.request.config))
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
    if not is_submittable(launcher):
        blocking = BlockingFleet(launcher)
        return {"blocking": blocking}, blocking
    parameters: dict[str, Any] = launcher.params  # type: ignore[attr-defined]  # upstream's launchers all have them
    local = LocalFleet(parameters if launcher._EXECUTOR == "local" else None, environment)  # type: ignore[attr-defined]
    fleets: dict[str, Fleet] = {"local": local}
    if launcher._EXECUTOR == "slurm":  # type: ignore[attr-defined]
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


def _to_mlflow(plan: Plan, record: StudyRecord, stack: ExitStack) -> ToMlflow | None:
    """The way to MLflow, which also catches up with what earlier drivers did not get there; None without a URI."""
    if plan.target is None:
        return None
    tags = ingest.code_tags(_entry_point(), record.code.get("commit"), record.code["digest"])
    tracked = TrackedStudy(
        plan.name,
        record.uid,
        dict(zip(plan.metrics, plan.directions, strict=True)),
        tags,
        {key: str(value) for key, value in record.identity.items() if key.startswith("space.")},
    )
    poll = float(OmegaConf.select(plan.request.config, "tracking.poll_interval"))
    ingester = stack.enter_context(ingest.Ingester(plan.folder, plan.target, tracked, poll))
    return ToMlflow(ingester, plan.metrics, tags, resume_command())


def _slurm_job_ended(job: str) -> bool | None:
    """Whether the Slurm job of another driver is over; None if Slurm cannot tell."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
    if done.returncode != 0:
        return True if "Invalid job id" in done.stderr else None
    return not done.stdout.strip()


# -------------------------------------------------------------------- conclude


def _conclude(plan: Plan, driver: Driver, console: Console, finished_before: int) -> None:
    standings = driver.standings
    standings_of.write_results(plan.folder / "optimization_results.yaml", standings)
    if driver.detach:
        left = len(driver.tracked)
        console.print(f"\n{driver.detach_reason or 'detached'}; {left} trial(s) are unfinished, their jobs left alone")
        console.print(f"  resume:  {resume_command()}", soft_wrap=True)
        return
    if standings.finished == finished_before and not driver.stop_asking:
        console.print(f"study {plan.name!r} is finished: {standings.finished} of {driver.n_trials} trials are done.")
        console.print("  raise hydra.sweeper.n_trials to go on, or start anew with study.fresh=true")
    _show_best(plan, driver, console)
    if driver.stop_asking and not driver.failed:
        console.print(f"no more trials were started: {driver.stop_asking}")
    if driver.failed:
        raise UserError(
            driver.failed, f"see {plan.folder}/trials/*/result.json; the same command goes on once it is mended"
        )


def _show_best(plan: Plan, driver: Driver, console: Console) -> None:
    standings = driver.standings
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(standings.states.items()))
    console.print(f"\nstudy {plan.name!r}: {standings.finished} of {driver.n_trials} trials ({states})")
    for trial in standings.front[:10]:
        values = dict(zip(plan.metrics, trial.values or (), strict=False))
        console.print(f"[bold green]best: trial {trial.number}[/]  {brief(values)}")
        for name, value in trial.params.items():
            console.print(f"    {name} = {value}", markup=False)
        result = driver.study.trial_dir(trial.number)
        ended = result.result()
        if ended is not None and ended.run is not None:
            console.print(f"    config: {result.run_dir(ended.run) / '.hydra' / 'config.yaml'}", soft_wrap=True)
    console.print("  review:  make dashboard   (python -m pipelines.dashboard)")
    console.print(f"  resume:  {resume_command('hydra.sweeper.n_trials=' + str(2 * driver.n_trials))}", soft_wrap=True)


def _entry_point() -> str:
    return resume_command().split(" ")[2] if len(sys.orig_argv) > 2 else sys.argv[0]


def resume_command(*more: str) -> str:
    """The command line as it was typed, for a person to type again; later overrides of a key replace it."""
    replaced = {text.partition("=")[0] for text in more}
    words = [word for word in sys.orig_argv[1:] if word.partition("=")[0] not in replaced]
    return shlex.join(["python", *words, *more])
