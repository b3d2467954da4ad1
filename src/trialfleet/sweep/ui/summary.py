"""What the terminal says of a study's plan and its end."""

import contextlib
import shlex
import sys

from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from trialfleet.errors import UserError
from trialfleet.sweep.driver import Driver
from trialfleet.sweep.mlflow_observer import MlflowObserver
from trialfleet.sweep.plan import Plan
from trialfleet.sweep.study.progress import write_results
from trialfleet.sweep.ui import command_line
from trialfleet.sweep.ui.follow_up import follow_up
from trialfleet.sweep.ui.live_table import brief
from trialfleet.sweep.ui.screen import cost, outcomes
from trialfleet.tracking.destination import Destination
from trialfleet.trial import secrets, transient
from trialfleet.trial.directory import composed_config
from trialfleet.trial.records import Damaged

# What is said once and not again: a command that resumes a study must not put it aside, or rebuild it; and a change
# that was allowed is the study's own by now.
_ONCE = ("fresh", "rebuild", "allow_changes")


def show_plan(plan: Plan, console: Console) -> None:
    """What --dry-run shows of a sweep: everything was checked, nothing is made."""
    settings = plan.settings
    state = "a new study" if plan.record is None else f"goes on with the study begun {plan.record.created}"
    lines = [
        f"study {plan.name!r} in {plan.folder}: {state}",
        f"{plan.n_trials} trials, {settings.n_jobs} at a time, launcher {type(plan.request.launcher).__name__}",
        *(f"{direction} {metric}" for metric, direction in zip(plan.metrics, plan.directions, strict=True)),
        *(f"  {secrets.masked(override)}" for override in plan.space.written.values()),
        *(f"  {secrets.masked(override)}" for key, override in plan.space.fixed.items() if key != "dry_run"),
        "the config of a trial has been composed and checked; nothing was started",
        f"without dry_run: {_outlook(plan)}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _outlook(plan: Plan) -> str:
    """What the command would do with the study as it is."""
    wanted = plan.n_trials
    if plan.record is None:
        return f"{wanted} trials would be started"
    trials = [path for path in (plan.folder / "trials").glob("*") if path.name.isdigit()]
    ended = sum((path / "result.json").exists() for path in trials)
    begun, left = len(trials) - ended, max(0, wanted - len(trials))
    anew = "the study would be made anew from its files; " if plan.settings.study.rebuild else ""
    stands = f"{ended} of {wanted} trials have ended"
    if ended >= wanted and not anew:
        return f"nothing, since {stands}; raise hydra.sweeper.n_trials to go on"
    return f"{anew}{stands}; {begun} that began would be finished, and {left} more started"


def conclude(plan: Plan, driver: Driver, console: Console, finished_before: int) -> None:
    """Write the results, and say how the study stands.

    Raises:
        UserError: the study has failed.
    """
    progress, stopping = driver.progress, driver.stopping
    results = plan.folder / "optimization_results.yaml"
    patience = 0.0 if stopping.leaves else plan.settings.patience

    def waiting(error: OSError) -> None:
        note = f"{error}: waiting until it passes, for {patience:.0f} s at most (hydra.sweeper.patience)"
        console.print(Text.assemble(("note", "yellow"), f"  {note}"), soft_wrap=True)

    try:
        transient.patiently(lambda: write_results(results, progress), patience, waiting=waiting)
    except OSError:
        if not stopping.leaves:  # the next driver writes them
            raise
    if stopping.leaves:
        left, request = driver.in_flight, stopping.request
        # A launcher that blocks ran them in this process, or waited for them.
        jobs = "" if driver.fleet.blocks else ", their jobs left alone"
        reason = (request and request.reason) or "detached"
        console.print(f"\n{reason}; {left} trial(s) are unfinished{jobs}")
        console.print(f"  resume:  {resume_command(plan.request.config)}", soft_wrap=True)
        return
    if progress.finished == finished_before and not stopping.reason:
        console.print(f"study {plan.name!r} is finished: {progress.finished} of {driver.n_trials} trials are done.")
        more = "raise hydra.sweeper.n_trials to go on, or start anew with hydra.sweeper.study.fresh=true"
        whole = plan.samplers.grid_size is not None and driver.n_trials >= plan.samplers.grid_size
        console.print(f"  {'that is the whole grid' if whole else more}", soft_wrap=True)
    _show_best(plan, driver, console, _run_in_mlflow(driver))
    if stopping.reason and not stopping.failure:
        console.print(f"no more trials were started: {stopping.reason}")
    if stopping.failure:
        over = progress.finished >= driver.n_trials
        then = "raise hydra.sweeper.n_trials, or start anew," if over else "the same command goes on"
        raise UserError(stopping.failure, f"see {plan.folder}/trials/*/result.json; {then} once it is mended")


def mlflow_run(destination: Destination | None, run: tuple[str, str] | None) -> str | None:
    """The study's run: its page if MLflow is served, else its id; None before it has one.

    Args:
        run: the ids of the experiment and of the run.
    """
    if destination is None or run is None:
        return None
    address = destination.shown
    served = address.startswith(("http://", "https://"))
    return f"{address.rstrip('/')}/#/experiments/{run[0]}/runs/{run[1]}" if served else f"run {run[1]}"


def _show_best(plan: Plan, driver: Driver, console: Console, run: tuple[str, str] | None) -> None:
    progress = driver.progress
    states = outcomes(progress.states, progress.causes)
    console.print(f"\nstudy {plan.name!r}: {progress.finished} of {driver.n_trials} trials ({states})", soft_wrap=True)
    account = driver.account
    used = {"wall_hours": account.wall_seconds / 3600, "device_hours": account.device_seconds / 3600}
    console.print(f"  cost:    {cost(progress.finished, used)}")
    for trial in progress.front[:10]:
        values = dict(zip(plan.metrics, trial.values or (), strict=False))
        console.print(Text.assemble((f"best: trial {trial.number}", "bold green"), f"  {brief(values)}"))
        for name, value in trial.params.items():
            console.print(f"    {name} = {value}")
        directory = driver.study.trial_dir(trial.number)
        with contextlib.suppress(OSError, Damaged):  # the last words of a study that is over
            ended = directory.result()
            if ended is None or ended.run is None:
                continue
            if (config := composed_config(directory.run_dir(ended.run))) is not None:
                console.print(f"    config: {config}", soft_wrap=True)
    if not progress.front and (complete := progress.states["COMPLETE"]):
        bounds = ", ".join(f"{metric} {bound}" for metric, bound in (plan.settings.constraints or {}).items())
        console.print(
            f"no trial is the best: none of the {complete} complete ones keeps hydra.sweeper.constraints ({bounds})",
            soft_wrap=True,
        )
        console.print("  a metric that the trial did not report, or that is NaN, is beyond its bound", soft_wrap=True)
    review = review_command(plan.request.task_function, plan.destination)
    links = {
        "review": review,
        "MLflow": mlflow_run(plan.destination, run),
        **follow_up(plan.folder, len(progress.front)),
    }
    for name, text in links.items():
        if text is not None:
            console.print(f"  {f'{name}:':<8} {text}", soft_wrap=True)
    if progress.finished < driver.n_trials:
        console.print(f"  resume:  {resume_command(plan.request.config)}", soft_wrap=True)
    elif plan.samplers.grid_size is None or driver.n_trials < plan.samplers.grid_size:
        more = f"hydra.sweeper.n_trials={2 * driver.n_trials}"
        console.print(f"  resume:  {resume_command(plan.request.config, more)}", soft_wrap=True)


def _run_in_mlflow(driver: Driver) -> tuple[str, str] | None:
    return next((one.run() for one in driver.observers.members if isinstance(one, MlflowObserver)), None)


def review_command(task_function: TaskFunction, destination: Destination | None) -> str | None:
    """What a person types to look at the results in MLflow, or its address if somebody serves it; None without MLflow.

    A project that has a command of its own for that names it in its task's attribute `review`.
    """
    if destination is None:
        return None
    own: str | None = getattr(task_function, "review", None)
    if own is not None:
        return own
    address = destination.shown
    return address if address.startswith(("http://", "https://")) else f"trialfleet dashboard {shlex.quote(address)}"


def entry_point() -> str:
    """What was typed to start this program: the name of a module, or the path of a script."""
    words = sys.orig_argv[1:]
    return words[1] if words[:1] == ["-m"] and len(words) > 1 else sys.argv[0]


def resume_command(config: DictConfig, *more: str) -> str:
    """The command line as it was typed, for a person to type again, but for passwords in URLs.

    Args:
        config: the composed config, which says what the keys are that must not be said twice.
        more: overrides that replace those of the same keys.
    """
    return command_line.again(*_fixed(config), *more, left_out=_said_once(config))


def _fixed(config: DictConfig) -> list[str]:
    """The study's name and folder, where the config would make others of them each time: by the time of day."""
    written = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(written, dict)
    keys = {"hydra.sweeper.study_name": ("sweeper", "study_name"), "hydra.sweep.dir": ("sweep", "dir")}
    if not any("${now" in str((written.get(group) or {}).get(name)) for group, name in keys.values()):
        return []
    return [command_line.override(key, str(OmegaConf.select(config, key))) for key in keys]


def _said_once(config: DictConfig) -> set[str]:
    """The keys of `hydra.sweeper.study` that stand for one command, and those of the application that fill them."""
    keys = {f"hydra.sweeper.study.{name}" for name in _ONCE} | {"hydra.sweeper.study"}
    node = OmegaConf.select(config, "hydra.sweeper.study")
    written = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else {}
    assert isinstance(written, dict)
    for name in _ONCE:
        filled = str(written.get(name))
        if filled.startswith("${") and filled.endswith("}"):
            keys |= {filled[2:-1], filled[2:-1].rpartition(".")[0]}
    return keys
