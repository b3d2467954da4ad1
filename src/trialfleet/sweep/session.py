"""One driver's life: take the study, run it, hand everything over, and say how it stands."""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import optuna
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.text import Text

from trialfleet.errors import UserError
from trialfleet.sweep import interpreter_exit, worker_terms
from trialfleet.sweep.clock import Clock
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.fleets import code_snapshot
from trialfleet.sweep.fleets.base import Fleet
from trialfleet.sweep.fleets.code_version import code_version
from trialfleet.sweep.fleets.launchers import FleetContext, make_fleets, parameters
from trialfleet.sweep.fleets.payload import keep_task, write_payload
from trialfleet.sweep.hooks import BEST, END, FAILURE, Hooks
from trialfleet.sweep.index_observer import IndexObserver
from trialfleet.sweep.kept_config import kept_config
from trialfleet.sweep.memory_check import MemoryCheck
from trialfleet.sweep.mlflow_observer import MlflowObserver, question
from trialfleet.sweep.observers import Observer, Observers
from trialfleet.sweep.opening import finish_fresh_start, open_study
from trialfleet.sweep.plan import Plan, Request, check, checked_again
from trialfleet.sweep.reconcile import Limits
from trialfleet.sweep.stopping import Stopping
from trialfleet.sweep.study import command, constraints, study_record
from trialfleet.sweep.study.ahead import Rule
from trialfleet.sweep.study.budget import Account
from trialfleet.sweep.study.command import Command
from trialfleet.sweep.study.databases import storage_failure, storage_is_transient
from trialfleet.sweep.study.index import IndexWriter
from trialfleet.sweep.study.lease import Lease, slurm_job_ended
from trialfleet.sweep.study.progress import StudyProgress
from trialfleet.sweep.study.proposer import Proposer
from trialfleet.sweep.study.search_space import in_words
from trialfleet.sweep.study.study_record import StudyRecord
from trialfleet.sweep.study_curve import StudyCurve
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.sweep.study_reports import StudyReports
from trialfleet.sweep.sweeper_settings import sweep_folder
from trialfleet.sweep.ui.follow_up import study_name
from trialfleet.sweep.ui.interrupts import Interrupts, interruptible_sleep
from trialfleet.sweep.ui.live_table import LiveTable
from trialfleet.sweep.ui.summary import conclude, entry_point, resume_command, show_plan
from trialfleet.sweep.wakes import Wakes
from trialfleet.tracking.destination import on_network_file_system
from trialfleet.tracking.exporter import Exporter, code_tags, label_tags
from trialfleet.tracking.study_export import ExportedStudy, StudyState
from trialfleet.tracking.waiting import Waiting
from trialfleet.trial import secrets, transient
from trialfleet.trial.metrics import SYSTEM_EVERY

START_AGAIN = 2.0  # seconds between two starts while what the study needs is away
FLUSH_SECONDS = 60.0  # how long the end waits for MLflow


def run_session(request: Request) -> None:
    """Run or resume the study that a command asks for.

    Raises:
        UserError: something about the request is wrong, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    interpreter_exit.look_once()
    console = Console(highlight=False, markup=False)  # what users wrote is never markup
    try:
        _run(request, console)
    except OSError as error:
        raise UserError(_of_file_system(error, sweep_folder(request.config)), _what_to_do(error)) from error
    except Exception as error:
        if (said := storage_failure(error)) is None:
            raise
        raise UserError(
            f"hydra.sweeper.storage: {said}", "the same command goes on once it is mended; the files have every result"
        ) from error


def _run(request: Request, console: Console) -> None:
    """Check, start, run, and conclude.

    Where the storage or the file system of a study that has begun is away, the start waits; a new one's is refused.

    Raises:
        SystemExit: a signal ended it before the study was finished; the code is what shells give to such an end.
    """
    patience = request.settings.patience
    deadline, told = time.monotonic() + patience, False
    while True:
        driver: Driver | None = None
        try:
            plan = check(request)
            if request.settings.dry_run:
                show_plan(plan, console)
                return
            with ExitStack() as stack:
                made, terminal, interrupts = _assemble(plan, console, stack)
                stack.enter_context(interrupts)
                made.recover()
                driver, finished_before = made, made.progress.finished
                with terminal:
                    driver.run()
                hand_over(driver, console, interrupts)
            break
        except Exception as error:
            passes = transient.passes(error) or storage_is_transient(error)
            once = request.study.fresh or request.study.rebuild  # a second try would put aside what the first made
            if driver is not None or once or not passes or time.monotonic() > deadline or not _has_begun(request):
                raise
            if not told:
                reason = error.message if isinstance(error, UserError) else error
                _note(console, f"{reason}: waiting until it passes, for {patience:.0f} s at most")
            told = True
        time.sleep(START_AGAIN)
    conclude(plan, driver, console, finished_before)
    if interrupts.last is not None and driver.progress.finished < driver.n_trials:
        sys.exit(128 + interrupts.last)


def _has_begun(request: Request) -> bool:
    """Whether there is a study already, or it cannot be told."""
    try:
        return (sweep_folder(request.config) / "study.yaml").exists()
    except OSError:
        return True


def _note(console: Console, message: str) -> None:
    console.print(Text.assemble(("note", "yellow"), f"  {message}"), soft_wrap=True)


def _of_file_system(error: OSError, folder: Path) -> str:
    # Of a copy that found no room the second file is the one without.
    file = (transient.is_full(error) and error.filename2) or error.filename
    return f"{file or folder}: {error.strerror or error}"


def _what_to_do(error: OSError) -> str:
    if transient.is_full(error):
        return "make room there; the same command goes on then, and nothing is lost"
    if isinstance(error, PermissionError):
        return "make it writable, or choose another folder with hydra.sweep.dir"
    return "the same command goes on once it is mended"


def hand_over(driver: Driver, console: Console, interrupts: Interrupts) -> None:
    """See to it that MLflow has everything and the hooks know of the end before the driver goes.

    What MLflow lacks the next driver sends. Where one must wait that is said. A signal ends the wait that it meets, and
    nothing else: the study has ended as it has.
    """
    request = driver.stopping.request
    _hand_to_mlflow(driver, console, interrupts)
    driver.stopping.request = request
    _tell_hooks_the_end(driver, interrupts)
    driver.stopping.request = request


def _hand_to_mlflow(driver: Driver, console: Console, interrupts: Interrupts) -> None:
    mlflow = next((observer for observer in driver.observers.members if isinstance(observer, MlflowObserver)), None)
    if mlflow is None:
        return
    stopping, leaves = driver.stopping, driver.stopping.leaves
    reports = next((observer for observer in driver.observers.members if isinstance(observer, StudyReports)), None)
    if reports is not None and not leaves:
        _if_the_disk_lets_us(driver.account.save)  # the report tells what was spent
        reports.finish(driver.account.wall_seconds, _unless_interrupted(interrupts))
    patience = FLUSH_SECONDS if not leaves else FLUSH_SECONDS / 6
    waiting = Waiting(driver.study.folder, patience, partial(_note, console), lambda: interrupts.count)
    over = driver.progress.finished >= driver.n_trials and not driver.in_flight
    state: StudyState = "FAIL" if stopping.failure else "COMPLETE" if over else "STOPPED"
    if not mlflow.finish(state, patience, waiting):
        _note(console, waiting.in_vain(mlflow.problem()))


def _tell_hooks_the_end(driver: Driver, interrupts: Interrupts) -> None:
    """Unless the study was only left: then it has not ended."""
    hooks = next((observer for observer in driver.observers.members if isinstance(observer, Hooks)), None)
    if hooks is not None and not driver.stopping.leaves:
        state = "finished" if driver.progress.finished >= driver.n_trials else "stopped"
        hooks.end(state, driver.stopping.failure, _unless_interrupted(interrupts))


def _unless_interrupted(interrupts: Interrupts) -> Callable[[], bool]:
    """Whether to go on waiting: not once a signal more has come."""
    heard = interrupts.count
    return lambda: interrupts.count == heard


def _hooks(plan: Plan, notice: Callable[[str], None]) -> Hooks:
    settings = plan.settings
    named = {BEST: settings.on_best, FAILURE: settings.on_failure, END: settings.on_end}
    commands = {event: command for event, command in named.items() if command}
    return Hooks(plan.folder, commands, settings.hook_seconds, notice)


def _note_of_time(plan: Plan, notice: Callable[[str], None]) -> None:
    written = OmegaConf.to_container(plan.request.config.hydra.sweep, resolve=False)
    if isinstance(written, dict) and "${now" in str(written.get("dir")):
        notice(
            "hydra.sweep.dir has ${now:…} in it: the same command begins another study each time, and only the one "
            "shown as resume goes on with this one; without it the folder is sweeps/<study_name>"
        )


def _assemble(plan: Plan, console: Console, stack: ExitStack) -> tuple[Driver, LiveTable, Interrupts]:
    """Take the study and build the driver; what must be given back is on the stack."""
    folder = plan.folder

    def notice(message: str) -> None:
        _note(console, message)

    def new_lease() -> Lease:
        times = plan.settings.lease
        return Lease(folder / "driver.lock", times.stale_after, times.beat, slurm_job_ended)

    finish_fresh_start(plan, new_lease, plan.request.study.fresh, notice)
    lease = new_lease()
    lease.acquire(notice)
    stack.callback(_if_the_disk_lets_us, lease.release)
    plan = checked_again(plan)
    config = kept_config(plan)
    opened = open_study(plan, lease, notice)
    record, store = opened.record, opened.store
    samplers = plan.samplers.seeded(record.seed)
    _note_of_time(plan, notice)
    if plan.pruner is not None:
        store.study.pruner = plan.pruner
        _note_of_unheard(store.trials(), notice)
    copy = code_snapshot.take(plan.code, folder / "code" / record.code["digest"], record.code["digest"])
    watch = plan.settings.watch
    terms = worker_terms.of(plan.settings.worker, plan.request.launcher, notice)
    environment = {
        "PYTHONPATH": code_snapshot.python_path(plan.code, copy),
        **({} if terms is None else terms.environment()),
        **_sampling(plan),
    }
    fleets, fleet = make_fleets(
        plan.request.launcher,
        FleetContext(
            submissions=folder / ".submitit",
            environment=environment,
            settle=watch.settle_network if on_network_file_system(folder) else watch.settle_local,
            imports=_imports(plan) if plan.settings.worker.fork else None,
        ),
    )
    stack.callback(fleet.close)
    mlflow = _to_mlflow(plan, record, lease, stack, opened.anew)
    if sum(trial.state.is_finished() for trial in store.trials()) < plan.n_trials:
        fleet.prepare()
        if mlflow is not None:
            mlflow.prepare()
    index = IndexWriter(folder, record.uids, list(plan.settings.constraints or ()))
    index.open()
    stack.callback(index.close)
    live = plan.settings.live and console.is_terminal
    curve = StudyCurve(folder)
    stack.callback(curve.close)
    terminal = LiveTable(console, live, plan.name, plan.metrics, mlflow.problem if mlflow else lambda: None)
    hooks = _hooks(plan, terminal.notice)
    stack.callback(hooks.close)
    to_mlflow: list[Observer] = [mlflow] if mlflow else []
    if mlflow is not None and plan.settings.report_after is not None:
        reports = StudyReports(folder, plan.settings.report_after, mlflow.report, terminal.notice)
        stack.callback(reports.close)
        to_mlflow.append(reports)
    interrupts = Interrupts(stopping := Stopping(), terminal, sys.stdin.isatty() and console.is_terminal)
    wakes = Wakes(folder, interrupts.poll)
    stack.callback(wakes.close)
    _keep_task(plan, record, fleet.blocks)
    payload = _payload(plan, record, copy, config) if not fleet.blocks else folder
    driver = Driver(
        study=StudyFolder(
            folder,
            folder / ".submitit",
            record.uids,
            plan.metrics[0] if plan.pruner is not None else None,
        ),
        store=store,
        proposer=Proposer(
            store,
            record.uid,
            plan.space,
            samplers,
            plan.settings.enqueue,
            folder,
            plan.settings.custom_search_space,
            plan.request.config,
            _rule(plan, fleet),
        ),
        pruner=plan.pruner,
        settings=plan.settings,
        limits=_limits(plan),
        n_trials=plan.n_trials,
        fleets=fleets,
        fleet=fleet,
        payload=payload,
        observers=Observers([IndexObserver(index), hooks, curve, *to_mlflow, terminal]),
        progress=StudyProgress(plan.directions),
        constraints=constraints.parse(plan.settings.constraints),
        account=Account.open(
            folder / "budget.json", _devices(plan.request.launcher), notice, lambda: opened.found.seconds
        ),
        takes_constraints=samplers.takes_constraints,
        ended_jobs=opened.found.ended_jobs,
        clock=Clock(sleep=partial(interruptible_sleep, interrupts)),
        stopping=stopping,
        memory_check=_memory_check(plan, terminal.notice),
        token=lease.token,
        wakes=wakes,
        signature=partial(_signature, plan.request),
        worker_kind=None if terms is None else worker_terms.kind(environment, plan.request.config),
    )
    command.write(folder, _command(plan, code_snapshot.python_path(plan.code, copy)))
    stack.callback(_if_the_disk_lets_us, driver.account.save)
    return driver, terminal, interrupts


def _searched(plan: Plan) -> dict[str, str]:
    """What is searched over, by parameter, in the words of a search space."""
    written = {key: secrets.masked(text.partition("=")[2]) for key, text in plan.space.written.items()}
    return {key: written.get(key) or in_words(kind) for key, kind in plan.space.distributions.items()}


def _sampling(plan: Plan) -> dict[str, str]:
    """What has jobs sample what they use: nothing unless it is asked for, and there is an MLflow to show it."""
    tracking = plan.settings.tracking
    if plan.destination is None or tracking is None or tracking.system_metrics is None:
        return {}
    return {SYSTEM_EVERY: str(tracking.system_metrics)}


def _command(plan: Plan, python_path: str) -> Command:
    """What this command says, for those who look at the study."""
    settings, sampler = plan.settings, OmegaConf.select(OmegaConf.create(dict(plan.request.node)), "sampler._target_")
    to = plan.destination
    keys = secrets.addresses(plan.request.config)
    return Command(
        resume=resume_command(plan.request.config),
        n_trials=plan.n_trials,
        n_jobs=settings.n_jobs,
        metrics=plan.metrics,
        directions=plan.directions,
        constraints=dict(settings.constraints or {}),
        reports=plan.metrics[0] if plan.pruner is not None else None,
        takes_constraints=plan.samplers.takes_constraints,
        sampler=str(sampler),
        launcher=type(plan.request.launcher).__name__,
        fixed=[secrets.masked_override(text, keys) for text in plan.space.fixed.values()],
        ignored=settings.study.ignore_changes,
        python_path=python_path,
        tracking={} if to is None else {"uri": to.shown, "experiment": to.experiment},
        started=time.time(),
    )


def _note_of_unheard(trials: Sequence[FrozenTrial], notice: Callable[[str], None]) -> None:
    """Reports go into the study only if there is a pruner: of what ended before, it knows nothing."""
    ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    unheard = sum(not trial.intermediate_values for trial in ended)
    if unheard:
        notice(
            f"the pruner has no reports of {unheard} complete trials to compare with; if they ended before the study "
            "had a pruner, hydra.sweeper.study.rebuild=true takes them from the trials' files"
        )


def _memory_check(plan: Plan, notice: Callable[[str], None]) -> MemoryCheck | None:
    request = plan.request
    if not plan.settings.check_memory:
        return None
    return MemoryCheck(request.trial_config, request.task_function.memory, notice)  # type: ignore[attr-defined]  # `check` has seen it


def _signature(request: Request, overrides: Sequence[str]) -> str | None:
    """Of the programs of a trial, if the application's task function has an attribute that tells."""
    told: Callable[[DictConfig], str] | None = getattr(request.task_function, "signature", None)
    if told is None:
        return None
    try:
        return told(request.trial_config(overrides))
    except Exception:  # noqa: BLE001  # the trial itself meets it, and says so
        return None


def _imports(plan: Plan) -> Sequence[str]:
    """What the application says that its jobs import, by an attribute of its task function."""
    told: Sequence[str] = getattr(plan.request.task_function, "imports", ())
    return told


def _rule(plan: Plan, fleet: Fleet) -> Rule:
    """When the sampler is asked ahead. A study of a single slot goes step by step: its sampler knows every result."""
    ahead = plan.settings.ahead
    slots = min(plan.settings.n_jobs, fleet.limit)
    return Rule(ahead.proposals, ahead.unseen if slots > 1 else 0)


def _keep_task(plan: Plan, record: StudyRecord, blocks: bool) -> None:
    """Keep the script's function beside the copy of the code, for the jobs of any later command too.

    Raises:
        UserError: it cannot be kept, and this command's jobs need it.
    """
    digest = record.code["digest"]
    try:
        keep_task(
            plan.folder / ".submitit", plan.request.task_function, digest, lambda: code_version(plan.code)["digest"]
        )
    except UserError:
        if not blocks:  # it runs trials by the function itself
            raise


def _payload(plan: Plan, record: StudyRecord, copy: Path, config: DictConfig) -> Path:
    """The file that all jobs share."""
    request = plan.request
    context = code_snapshot.repointed(request.hydra_context, plan.code, copy)
    return write_payload(plan.folder / ".submitit", context, request.task_function, config, record.code["digest"])


def _if_the_disk_lets_us(save: Callable[[], None]) -> None:
    """What is done on the way out must not hide why we leave: the next driver does without it."""
    with contextlib.suppress(OSError):
        save()


def _devices(launcher: Launcher) -> int:
    """Devices that a trial occupies, for the budget of device-hours: its GPUs, or 1 for each of its tasks."""
    params = parameters(launcher)
    tasks = int(params.get("tasks_per_node") or 1)
    per_node = int(params.get("gpus_per_node") or 0) or tasks * int(params.get("gpus_per_task") or 1)
    return per_node * int(params.get("nodes") or 1)


def _limits(plan: Plan) -> Limits:
    timeouts = parameters(plan.request.launcher).get("max_num_timeout")
    return Limits(plan.settings.max_retries, plan.settings.max_unclaimed, timeouts or None)


def _to_mlflow(plan: Plan, record: StudyRecord, lease: Lease, stack: ExitStack, anew: bool) -> MlflowObserver | None:
    """The way to MLflow, which also catches up with what earlier drivers did not get there; None without a URI."""
    if plan.destination is None or plan.settings.tracking is None:
        return None
    version = code_tags(entry_point(), record.code.get("commit"), record.code["digest"])
    tags = {**label_tags(plan.settings.tags), **version}
    exported = ExportedStudy(
        plan.name,
        record.uid,
        dict(zip(plan.metrics, plan.directions, strict=True)),
        tags,
        {
            "objective": ",".join(plan.metrics),
            "direction": ",".join(plan.directions),
            **{f"{study_record.SPACE}{key}": text for key, text in _searched(plan).items()},
        },
        {"trialfleet.folder": str(plan.folder.absolute())},
    )
    poll = plan.settings.tracking.poll_interval
    exporter = stack.enter_context(Exporter(plan.folder, plan.destination, exported, poll, lease.held, anew))
    resume = resume_command(plan.request.config)
    name = shlex.quote(study_name(plan.folder))
    commands = {
        "Watch": f"trialfleet study watch {name}",
        "Report": f"trialfleet report {name}",
        "Export the best config": f"trialfleet study export {name}",
    }
    settings = {
        "trials:": plan.n_trials,
        "at a time:": plan.settings.n_jobs,
        "launcher": type(plan.request.launcher).__name__,
    }
    space = _searched(plan)
    aims = dict(zip(plan.metrics, plan.directions, strict=True))
    return MlflowObserver(
        exporter, plan.metrics, resume, question(plan.name, plan.folder.absolute(), aims, space, settings), commands
    )
