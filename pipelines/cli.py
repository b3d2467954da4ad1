"""What all entry points share: flags that Hydra does not have, and errors that a person can read."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig

from trialfleet.commands.errors import broken_off
from trialfleet.config.location import conf_directory
from trialfleet.errors import ShownError, UserError
from trialfleet.trial.run import Preempted

T = TypeVar("T")


_FULL_ERROR = "HYDRA_FULL_ERROR"
_USERS = {name: value for name, value in os.environ.items() if name == _FULL_ERROR}  # before `main` sets its own


def users_environment() -> dict[str, str]:
    """The environment variables as the user had them, for a program that takes this one's place."""
    return {name: value for name, value in os.environ.items() if name != _FULL_ERROR} | _USERS


def main(entry: Callable[[], Any], own_flags: bool = True) -> None:
    """Run a Hydra entry point: short messages for what the user can mend, tracebacks for what we must.

    Args:
        own_flags: whether ours are read; not where the words are another program's.
    """
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    full = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves the formatting of errors to us
    try:
        with broken_off(full):
            if own_flags:
                _own_flags()
                _refuse_no_member(sys.argv[1:])
            entry()
            if _failed:
                raise _failed.pop()
            if _exit_codes:
                sys.exit(_exit_codes.pop())
    except Preempted as stopped:
        print(f"{stopped}; what was saved is among the run's checkpoints/", file=sys.stderr)
        sys.exit(143)
    except (UserError, CompactHydraException, OmegaConfBaseException) as error:
        if full:
            raise
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        print(f"error: {error}{cause}{_hint(str(error))}", file=sys.stderr)
        sys.exit(2)
    except ShownError as error:  # no fault of the command's: the training went wrong
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if full or error.filename is None or not _is_of_hydra(error):
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        print(
            "  fix: go to a folder that can be written, or name the results' folder: hydra.run.dir=…", file=sys.stderr
        )
        sys.exit(2)
    finally:
        if not full:
            del os.environ["HYDRA_FULL_ERROR"]


def _hint(message: str) -> str:
    """What to do where Hydra does not say it: the sweep's file sets a key that only our sweepers have."""
    if "hydra.sweeper.default_params" not in message:
        return ""
    return "\n  fix: choose hydra/sweeper=optuna; python -m pipelines.train -m runs a grid with any sweeper"


OF_A_SWEEP = ("hydra/launcher", "hydra/sweeper")
_failed: list[Exception] = []  # what a single run's task raised
_exit_codes: list[int] = []  # with what `main` is to end, other than with 0


def single(task: Callable[[DictConfig], T], cfg: DictConfig) -> T | None:
    """Call the task function of a single run.

    Its error is raised by `main` when Hydra has returned, since Hydra would say 'Error executing job' before it.
    """
    try:
        return task(cfg)
    except Exception as error:  # noqa: BLE001  # raised again
        _failed.append(error)
        return None


def exit_with(code: int) -> None:
    """End with this code when Hydra has returned."""
    _exit_codes.append(code)


def _is_of_hydra(error: OSError) -> bool:
    """Whether Hydra met it, say at making the output folder of a run, and nobody's code besides."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inner = next((name for name in reversed(modules) if name not in ("pathlib", "logging")), "")
    return str(inner).startswith("hydra.")


def _refuse_no_member(words: Sequence[str]) -> None:
    """A group's member is a name: of anything else Hydra makes a traceback.

    Raises:
        UserError: naming the word, and the members that there are.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        group = word.lstrip("+").partition("=")[0]
        if "=" not in word or not group or not (conf_directory() / group).is_dir():
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:  # Hydra says so itself
            continue
        if override.is_sweep_override():
            continue
        value = override.value()
        if not all(isinstance(one, str) and one for one in (value if isinstance(value, list) else [value])):
            members = ", ".join(sorted(path.stem for path in (conf_directory() / group).glob("*.yaml")))
            raise UserError(
                f"{word}: {group} is a group, and its members are chosen by name", f"choose one of {members}"
            )


def _own_flags() -> None:
    """--dry-run is an override; --info config-groups is ours: Hydra knows neither. --hydra-help goes alone."""
    if "--hydra-help" in sys.argv:  # Hydra's page is the same whatever is said besides, and it stumbles over groups
        sys.argv[1:] = ["--hydra-help"]
    if "--dry-run" in sys.argv:
        sys.argv[sys.argv.index("--dry-run")] = "dry_run=true"
    for index, word in enumerate(sys.argv):
        if word == "--info=config-groups" or (
            word == "--info" and sys.argv[index + 1 : index + 2] == ["config-groups"]
        ):
            _show_groups()
            sys.exit(0)


def _show_groups() -> None:
    """Each config group with its members, as they are named on the command line; of Hydra's own, those of a sweep."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    def show(parent: str) -> None:
        for group in sorted(loader.list_groups(parent)):
            path = f"{parent}/{group}".lstrip("/")
            members = sorted(loader.get_group_options(path))
            if members and (not path.startswith("hydra") or path.startswith(OF_A_SWEEP)):
                print(f"{path}: {', '.join(members)}")
            show(path)

    with initialize_config_dir(str(conf_directory())):
        loader = GlobalHydra.instance().config_loader()
        show("")
