"""`trialfleet study …`: what people see of a study, and ask of it."""

import argparse
import shlex
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet.commands.errors import INTERRUPTED
from trialfleet.errors import UserError
from trialfleet.review import asking, comparison, fields, putting_away, tables, watching
from trialfleet.review.asking import Outcome
from trialfleet.review.studies import ASIDE, SWEEPS, Study, find, folders, load
from trialfleet.sweep.study.index import ENDED, RUNNING, WAITING, TrialRow

if TYPE_CHECKING:  # Optuna is loaded where it is needed
    from trialfleet.review.exporting import Target
    from trialfleet.sweep.without_driver import Agreed

SHOWN = 40  # trials in a table, unless --limit says otherwise
REPORT = "report.html"
WAIT = 30.0  # seconds for a driver's answer

EPILOG = (
    "exit codes: 0 done; 1 refused by the study's driver, or by who was asked, or a rerun that differs; 2 the command "
    "is wrong; 3 the driver has not answered yet; 130 interrupted by Ctrl-C"
)


@dataclass(frozen=True)
class Application:
    """Where an application's configs are, for commands that write or compose one.

    Attributes:
        conf: the folder; None for `conf` in the present one.
        config_name: the primary config of single runs; None for that of the sweep.
        train: the command that such a run is typed as; None for the script that the study was started by.
    """

    conf: Path | None = None
    config_name: str | None = None
    train: str | None = None


def run(program: str, words: Sequence[str], application: Application | None = None) -> None:
    """Do what the words say, and exit with the code that `EPILOG` explains.

    Args:
        program: how the command is called, for its help.
        words: the command line behind that.
        application: whose studies these are.

    Raises:
        UserError: there is no such study, or a word is wrong.
    """
    arguments = parser(program).parse_args(words)
    arguments.application = application or Application()
    code = arguments.do(arguments)
    if code:
        sys.exit(code)


def parser(program: str) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog=program,
        description="What is to be seen of a study, and asked of it. A study is given by its name, or by the path of "
        "its folder.",
        epilog=EPILOG,
    )
    top.add_argument("--dir", type=Path, default=None, metavar="FOLDER", help=f"where studies lie ({SWEEPS})")
    subs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_seeing, _add_taking, _add_asking, _add_upkeep):
        add(subs)
    return top


Subparsers = Any  # argparse's class of them has no public name
Do = Callable[[argparse.Namespace], int | None]


def _command(subs: Subparsers, name: str, do: Do, what: str, study: bool = True) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = subs.add_parser(
        name, help=what, description=what[0].upper() + what[1:], epilog=EPILOG
    )
    sub.set_defaults(do=do)
    # Wherever it is typed; the default is the one of the words before.
    sub.add_argument("--dir", type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help=argparse.SUPPRESS)
    if study:
        sub.add_argument("study", metavar="STUDY")
    return sub


def _formats(sub: argparse.ArgumentParser, table: bool = True) -> None:
    formats = sub.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="for scripts; the fields stay as they are")
    if table:
        formats.add_argument("--csv", action="store_true", help="the same as a table")


def _study(arguments: argparse.Namespace) -> Study:
    return find(arguments.study, arguments.dir)


def _print(text: str) -> None:
    print(text, end="" if text.endswith("\n") else "\n")


# -------------------------------------------------------------------- what is to be seen


def _add_seeing(subs: Subparsers) -> None:
    sub = _command(subs, "list", _list, "the studies that there are", study=False)
    sub.add_argument("--all", action="store_true", help="those, too, that a fresh one has put aside")
    _formats(sub)
    sub = _command(subs, "show", _show, "one study: how it stands, and what is best; or one trial of it")
    sub.add_argument("trial", nargs="?", type=int, metavar="TRIAL")
    _formats(sub, table=False)
    sub = _command(subs, "trials", _trials, "the trials of a study")
    sub.add_argument("--state", action="append", choices=[*ENDED, RUNNING, WAITING], help="only those; may be repeated")
    sub.add_argument("--sort", metavar="FIELD", help="an objective (the best first), a parameter, a metric, or a field")
    sub.add_argument("--reverse", action="store_true")
    sub.add_argument("--limit", type=_count, metavar="N", help=f"only the first N; a table has {SHOWN}")
    _formats(sub)
    sub = _command(subs, "best", _best, "the best trials; of several objectives the Pareto front")
    sub.add_argument("--top", type=_count, default=1, metavar="N", help="so many, by the first objective (1)")
    _formats(sub)
    sub = _command(
        subs, "compare", _compare, "studies side by side: settings that differ, and what came of them", False
    )
    sub.add_argument("studies", nargs="+", metavar="STUDY")
    _formats(sub)
    sub = _command(
        subs, "report", _report, "write a study as one HTML file that needs no network; several are compared", False
    )
    sub.add_argument("studies", nargs="+", metavar="STUDY")
    sub.add_argument(
        "--output", type=Path, metavar="FILE", help=f"instead of {REPORT} in the study's folder, or here for several"
    )
    sub.add_argument(
        "--parts", type=Path, metavar="FOLDER", help="its figures as PNG and its trials as CSV in this folder, too"
    )
    sub.add_argument("--open", action="store_true", help="show it in a browser")
    # Of a driver that is about to leave: it is none that is at work.
    sub.add_argument("--ended", action="store_true", help=argparse.SUPPRESS)
    # Of the same: a line on stdin says that it is time, and its end that nobody wants the report any more.
    sub.add_argument("--when-told", action="store_true", help=argparse.SUPPRESS)
    _command(subs, "watch", _watch, "what the study's driver shows, until it ends; Ctrl-C ends this alone")


def _count(text: str) -> int:
    """How many to show; argparse makes an error of what is none."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _list(arguments: argparse.Namespace) -> int | None:
    base = Path(SWEEPS) if arguments.dir is None else arguments.dir
    found = []
    for folder in folders(base):
        if arguments.all or ASIDE not in folder.name:
            try:
                found.append(load(folder))
            except UserError as damage:
                print(f"note: {damage.message}", file=sys.stderr)
    if arguments.json or arguments.csv:
        records = [fields.study_fields(study) for study in found]
        _print(fields.as_json(records) if arguments.json else fields.studies_as_csv(records))
    elif not found:
        print(f"no studies in {base.absolute()}; --dir FOLDER names another place")
    else:
        tables.studies(found, comparison.told_apart(found))
    return None


def _show(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    row = None if arguments.trial is None else study.trial(arguments.trial)
    if arguments.json:
        _print(fields.as_json(fields.study_fields(study) if row is None else fields.trial_fields(study, row)))
    elif row is None:
        tables.overview(study)
    else:
        tables.one_trial(study, row)
    return None


def _trials(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    rows = [row for row in study.rows if not arguments.state or row.state in arguments.state]
    if arguments.sort:
        rows = fields.ordered(study, rows, arguments.sort, arguments.reverse)
    elif arguments.reverse:
        rows.reverse()
    table = not (arguments.json or arguments.csv)
    limit = arguments.limit if arguments.limit is not None else SHOWN if table else len(rows)
    if not table:
        _print_trials(study, rows[:limit], arguments)
        return None
    if not rows:
        of = f" that is {' or '.join(arguments.state)}" if arguments.state else ""
        print(f"study {study.name!r} has no trial{of or ' yet'}")
        return None
    tables.trials(study, rows[:limit])
    if len(rows) > limit:
        print(f"… and {len(rows) - limit} more: --limit {len(rows)}")
    return None


def _print_trials(study: Study, rows: Sequence[TrialRow], arguments: argparse.Namespace) -> None:
    trials = [fields.trial_fields(study, row) for row in rows]
    _print(fields.as_json(trials) if arguments.json else fields.as_csv(trials))


def _best(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    rows = study.front if arguments.top == 1 else study.ranked()[: arguments.top]
    if arguments.json or arguments.csv:
        _print_trials(study, rows, arguments)
    elif rows:
        tables.best(study, rows)
    else:
        complete = study.counts["COMPLETE"]
        why = f"none of its {complete} complete trials keeps its bounds" if complete else "no trial is complete yet"
        print(f"study {study.name!r} has no best trial: {why}")
    return None


def _compare(arguments: argparse.Namespace) -> int | None:
    if len(arguments.studies) < 2:
        raise UserError("compare: names one study", "name two or more")
    studies = [find(name, arguments.dir) for name in arguments.studies]
    names = comparison.column_names(studies)
    if arguments.json:
        parts = {"outcomes": comparison.outcomes(studies), "differing": comparison.differing(studies)}
        _print(fields.as_json({"studies": names, **parts}))
    elif arguments.csv:
        _print(fields.table_as_csv(["", *names], comparison.lines(studies)))
    else:
        tables.show(comparison.lines(studies), ["", *names])
    return None


def _report(arguments: argparse.Namespace) -> int | None:
    from trialfleet.review.report import pictures, writing  # NumPy takes its time

    if arguments.when_told:
        pictures.import_matplotlib()
        if not sys.stdin.readline():
            return None
    studies = [find(name, arguments.dir) for name in arguments.studies]
    if arguments.parts is not None and len(studies) > 1:
        raise UserError("--parts: several studies have one page alone", "ask for the parts of each by itself")
    place = studies[0].folder if len(studies) == 1 else Path()
    path = (arguments.output or place / REPORT).absolute()
    writing.write(
        writing.report(studies[0], driven=not arguments.ended, parts=arguments.parts)
        if len(studies) == 1
        else writing.comparison(studies),
        path,
    )
    print(path)
    if arguments.open:
        webbrowser.open(path.as_uri())
    return None


def _watch(arguments: argparse.Namespace) -> int | None:
    try:
        watching.watch(_study(arguments), tables.console())
    except KeyboardInterrupt:
        print()
        return INTERRUPTED
    return None


# -------------------------------------------------------------------- what is to be taken from a study


def _add_taking(subs: Subparsers) -> None:
    sub = _command(
        subs, "export", _export, "write a trial's config as experiment/NAME.yaml of the application's configs"
    )
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, metavar="TRIAL", help="instead of the best")
    which.add_argument("--front", action="store_true", help="the whole Pareto front, as NAME_TRIAL.yaml each")
    sub.add_argument("--as", dest="name", metavar="NAME", help="of the file, instead of the study's")
    sub.add_argument("--conf", type=Path, metavar="FOLDER", help="the application's configs, instead of conf")
    sub.add_argument("--config-name", metavar="NAME", help="the primary config of a single run")
    sub.add_argument("--force", action="store_true", help="replace a file that is there")
    sub = _command(
        subs, "rerun", _rerun, "repeat a trial from its folder, and say whether it came out the same, bit for bit"
    )
    sub.add_argument("trial", type=int, metavar="TRIAL")
    sub.add_argument("--to", type=Path, metavar="FOLDER", help="for the new run, instead of one in outputs/rerun")


def _export(arguments: argparse.Namespace) -> int | None:
    from trialfleet.review import exporting  # Hydra takes its time

    study = _study(arguments)
    rows = study.front if arguments.trial is None else [study.trial(arguments.trial)]
    if not rows:
        raise UserError(f"study {study.name!r} has no best trial yet", "choose one with --trial")
    if len(rows) > 1 and not arguments.front:
        numbers = ", ".join(str(row.number) for row in rows)
        raise UserError(
            f"study {study.name!r} has a Pareto front: trials {numbers}", "choose --front, or --trial TRIAL"
        )
    name = arguments.name or exporting.name_of(study)
    targets = [_target(arguments, study, f"{name}_{row.number}" if arguments.front else name) for row in rows]
    exporting.check(targets, arguments.force)
    for row, target in zip(rows, targets, strict=True):
        path = exporting.export(study, row, target, arguments.force)
        print(f"trial {row.number}: {path}\n  {target.command}")
    return None


def _rerun(arguments: argparse.Namespace) -> int | None:
    from trialfleet.review.rerunning import repeat

    study = _study(arguments)
    repeated = repeat(study, study.trial(arguments.trial), arguments.to)
    for line in (*repeated.outcome, *repeated.differences):
        print(line)
    print(f"trial {arguments.trial} came out {'the same' if repeated.same else 'differently'}: {repeated.folder}")
    return None if repeated.same else asking.REFUSED


def _target(arguments: argparse.Namespace, study: Study, name: str) -> "Target":
    from trialfleet.review.exporting import Target, typed

    known: Application = arguments.application
    conf = arguments.conf or known.conf or Path("conf")
    if not conf.is_dir():
        raise UserError(f"{conf}: there is no such folder", "say where the application's configs are: --conf FOLDER")
    script = study.record.code.get("script", "train.py")
    train = known.train or typed(Path(script), "" if study.command is None else study.command.resume)
    return Target(conf, arguments.config_name or known.config_name or "config", name, train)


# -------------------------------------------------------------------- what is to be asked


def _add_asking(subs: Subparsers) -> None:
    sub = _command(subs, "stop", _stop, "ask the driver to start no more trials, and to wait for those that run")
    jobs = sub.add_mutually_exclusive_group()
    jobs.add_argument(
        "--detach", action="store_const", const="leave", dest="of_jobs", help="to leave their jobs running"
    )
    jobs.add_argument("--cancel", action="store_const", const="cancel", dest="of_jobs", help="to cancel them")
    sub.set_defaults(of_jobs="finish")
    _wait(sub)
    sub = _command(subs, "cancel", _cancel, "ask the driver to end one trial")
    sub.add_argument("trial", type=int, metavar="TRIAL")
    _wait(sub)
    sub = _command(subs, "retry", _retry, "ask for a new trial with the parameters of one that has ended, which stays")
    sub.add_argument("trial", type=int, metavar="TRIAL")
    _wait(sub)
    sub = _command(subs, "enqueue", _enqueue, "ask for a trial with parameters of your own")
    sub.add_argument("words", nargs="+", metavar="KEY=VALUE", help="what is left out the sampler chooses")
    _wait(sub)


def _wait(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--wait", type=float, default=WAIT, metavar="SECONDS", help="for the driver's answer (%(default)g)"
    )


def _say(outcome: Outcome) -> int:
    print(outcome.said, file=sys.stdout if outcome.code == asking.DONE else sys.stderr)
    return outcome.code


def _stop(arguments: argparse.Namespace) -> int | None:
    return _say(asking.stop(_study(arguments), arguments.of_jobs, arguments.wait))


def _cancel(arguments: argparse.Namespace) -> int | None:
    return _say(asking.cancel(_study(arguments), arguments.trial, arguments.wait))


def _retry(arguments: argparse.Namespace) -> int | None:
    return _say(asking.retry(_study(arguments), arguments.trial, arguments.wait))


def _enqueue(arguments: argparse.Namespace) -> int | None:
    return _say(asking.enqueue(_study(arguments), arguments.words, arguments.wait))


# -------------------------------------------------------------------- upkeep


def _add_upkeep(subs: Subparsers) -> None:
    sub = _command(subs, "reconcile", _reconcile, "tell the study what ended while it had no driver")
    _storage(sub)
    sub = _command(subs, "rebuild", _rebuild, "make the Optuna study anew from the files of its trials")
    _storage(sub)
    sub = _command(subs, "archive", _archive, "pack a study into one file, and remove its folder")
    sub.add_argument("--to", type=Path, metavar="PATH", help="the file, or a folder for it (beside the study's)")
    _yes(sub)
    sub = _command(subs, "delete", _delete, "delete a study: its folder, and the Optuna study")
    _storage(sub)
    _yes(sub)


def _storage(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--storage", metavar="URL", help="of the study, where it needs a password")


def _yes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--yes", action="store_true", help="do not ask")


def _note(message: str) -> None:
    print(f"note  {message}")


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _reconcile(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    if study.driver is not None and study.driver.alive:
        print(f"study {study.name!r} has a driver ({study.driver.who}), which does this all the time")
        return None
    _quiet_optuna()
    from trialfleet.sweep.without_driver import reconcile

    _show_agreed(study, reconcile(study.folder, arguments.storage, _note))
    return None


def _rebuild(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    _quiet_optuna()
    from trialfleet.sweep.without_driver import make_anew

    _show_agreed(study, make_anew(study.folder, arguments.storage, _note))
    return None


def _show_agreed(study: Study, agreed: "Agreed") -> None:
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(agreed.states.items()))
    print(f"study {study.name!r}: {counts or 'no trials'}; {len(agreed.told)} were told now")
    if agreed.under_way and study.command is not None:
        print(f"{len(agreed.under_way)} have not ended; to go on with them:\n  {study.command.resume}")


def _archive(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    path = putting_away.archive_path(study, arguments.to)
    if not _agreed_to("archive", study, putting_away.touched_by_archive(study, path), arguments.yes):
        return asking.REFUSED
    putting_away.archive(study, path, _note)
    print(path)
    print(f"  unpack:  tar -xzf {shlex.quote(str(path))} -C {shlex.quote(str(study.folder.parent))}")
    return None


def _delete(arguments: argparse.Namespace) -> int | None:
    study = _study(arguments)
    if not _agreed_to("delete", study, putting_away.touched_by_delete(study), arguments.yes):
        return asking.REFUSED
    _quiet_optuna()
    putting_away.delete(study, arguments.storage, _note)
    print(f"study {study.name!r} is deleted")
    return None


def _agreed_to(what: str, study: Study, touched: putting_away.Touched, yes: bool) -> bool:
    """Say what is touched, and ask.

    Raises:
        UserError: nobody is there to answer.
    """
    print(f"{what} study {study.name!r}:")
    for line in touched.lines():
        print(f"  {line}")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{what}: nobody is there to say yes", "add --yes")
    return input(f"type {study.name} to go on: ").strip() == study.name
