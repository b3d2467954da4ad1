"""The points of the contract: what is asked of what was seen of a sweep.

Each takes a story and returns an empty text where it holds, the reason where it does not, and None where the story has
nothing to judge it by.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from . import side_file
from .moments import Further, Story
from .side_file import Parameters, Said

Verdict = str | None


def _short(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-12:])


def _shown(jobs: list[Parameters]) -> str:
    return ", ".join(str(dict(job)) for job in jobs)


# ---------------------------------------------------------------- identity, numbers, folders


def same_sweep(story: Story) -> Verdict:
    """All jobs of all commands belong to one sweep, and its aggregate file is in that sweep's folder."""
    if story.resumed is None:
        return None
    folders = {line.sweep for line in story.lines}
    if len(folders) != 1:
        return f"the sweep's folders: {sorted(map(str, folders))}"
    return "" if (folders.pop() / story.aggregate).exists() else "the sweep's folder has no results"


def numbers_are_not_used_again(story: Story) -> Verdict:
    """A job number, and an output folder, stands for one set of parameters for ever."""
    if story.resumed is None:
        return None
    return _used_twice(story.lines, "number", lambda line: str(line.number)) or _used_twice(
        story.lines, "folder", lambda line: line.folder
    )


def _used_twice(lines: list[Said], what: str, key: Callable[[Said], Hashable]) -> str:
    used: defaultdict[Hashable, set[Parameters]] = defaultdict(set)
    for line in lines:
        used[key(line)].add(line.parameters)
    twice = [f"{what} {one} stands for {_shown(list(several))}" for one, several in used.items() if len(several) > 1]
    return "; ".join(twice)


def folders_of_ended_jobs_stay(story: Story) -> Verdict:
    """What a job that had ended was given stays in its folder as it was, byte for byte."""
    if story.resumed is None or not story.overrides:
        return None
    return "; ".join(
        f"{file} was {was!r}, is {story.overrides_now[file]!r}"
        for file, was in story.overrides.items()
        if was is None or story.overrides_now[file] != was
    )


# ---------------------------------------------------------------- the total


def total_is_kept(story: Story) -> Verdict:
    """After the resume as many jobs have an outcome, good or bad, as the sweep was to have."""
    if story.resumed is None:
        return None
    if story.resumed.code != 0:
        return f"the command ended with {story.resumed.code}:\n{_short(story.resumed.said)}"
    found = len(side_file.ends(story.lines))
    return "" if found == story.total else f"{found} jobs have ended, of {story.total}"


def finished_starts_nothing(story: Story) -> Verdict:
    """The command of a finished sweep starts no job."""
    return _started(story.again, 0)


def raised_total_adds_the_difference(story: Story) -> Verdict:
    """A total that is larger by one starts one job."""
    return _started(story.raised, 1)


def _started(further: Further | None, wanted: int) -> Verdict:
    if further is None:
        return None
    if further.done.code != 0:
        return f"the command ended with {further.done.code}:\n{_short(further.done.said)}"
    return "" if further.started == wanted else f"{further.started} jobs were started, not {wanted}"


# ---------------------------------------------------------------- what becomes of each job


def completed_are_not_run_again(story: Story) -> Verdict:
    """Parameters that had ended well are started once."""
    return _started_once(story, side_file.ends(story.cut, "well"))


def failed_stay_failed(story: Story) -> Verdict:
    """Parameters that had failed are started once (and count: see the total)."""
    return _started_once(story, side_file.ends(story.cut, "failed"))


def in_flight_are_collected(story: Story) -> Verdict:
    """A job that outlives its controller is started once, ends, and counts: no other job is run in its stead."""
    once = _started_once(story, story.in_flight)
    if once != "":
        return once
    found, without_end = len(side_file.ends(story.lines)), side_file.unfinished(story.lines)
    left = [job.parameters for job in story.in_flight if job in without_end]
    if left:
        return f"the command left {_shown(left)} behind"
    return "" if found <= story.total else f"{found} jobs have ended, of {story.total}"


def interrupted_are_run_again(story: Story) -> Verdict:
    """Parameters whose job died with its controller are started again, and come to an end."""
    if story.resumed is None or not story.interrupted:
        return None
    ended = {line.parameters for line in side_file.ends(story.lines)}
    lost = [job.parameters for job in story.interrupted if job.parameters not in ended]
    return f"never run again: {_shown(lost)}" if lost else ""


def _started_once(story: Story, jobs: list[Said]) -> Verdict:
    if story.resumed is None or not jobs:
        return None
    count = Counter(line.parameters for line in side_file.starts(story.lines))
    twice = [job.parameters for job in jobs if count[job.parameters] != 1]
    return f"started again: {_shown(twice)}" if twice else ""


# ---------------------------------------------------------------- controllers, results, changes, slots


def one_controller(story: Story) -> Verdict:
    """Of two controllers at once one works, and the other refuses, or waits; no parameters are started twice."""
    if story.second is None:
        return None
    code, said = story.second
    if code == 0:
        return f"both of them worked; the second said:\n{_short(said)}"
    count = Counter(line.parameters for line in side_file.starts(story.lines))
    twice = [job for job, starts in count.items() if starts > 1]
    return f"started twice: {_shown(twice)}" if twice else ""


def results_are_of_all_jobs(story: Story) -> Verdict:
    """The aggregate file is whole, and has the best of all jobs: the first that ended well."""
    if story.resumed is None:
        return None
    well = side_file.ends(story.lines, "well")
    if not well:
        return "no job ended well"
    file: Path = well[0].sweep / story.aggregate
    if not file.exists():
        return f"{file.name} is not there"
    found = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(found, dict)
    wanted = {"best_value": float(well[0].order), "best_params": {"x": dict(well[0].parameters)["x"]}}
    has = {key: found.get(key) for key in wanted}
    return "" if has == wanted else f"{file.name} has {has}, not {wanted}"


def change_is_refused(what: str, words: tuple[str, ...], story: Story) -> Verdict:
    """A command that differs is refused, the message has what differs, and no job is started."""
    further = story.changed.get(what)
    if further is None:
        return None
    if further.started or further.done.code == 0:
        return f"it ended with {further.done.code} and started {further.started} jobs"
    missing = [word for word in words if not re.search(rf"\b{re.escape(word)}\b", further.done.said)]
    return f"it does not name {missing}:\n{_short(further.done.said)}" if missing else ""


def free_slots_are_filled(story: Story) -> Verdict:
    """A slot gets its next job when its job has ended, whatever the other slots do."""
    if story.refilled is None:
        return None
    return "" if story.refilled else "no job was started while another one ran on"


POINTS: dict[str, Callable[[Story], Verdict]] = {
    "same sweep": same_sweep,
    "numbers and folders are not used again": numbers_are_not_used_again,
    "folders of ended jobs stay": folders_of_ended_jobs_stay,
    "total is kept": total_is_kept,
    "finished starts nothing": finished_starts_nothing,
    "raised total adds the difference": raised_total_adds_the_difference,
    "completed are not run again": completed_are_not_run_again,
    "failed stay failed": failed_stay_failed,
    "interrupted are run again": interrupted_are_run_again,
    "in-flight are collected": in_flight_are_collected,
    "one controller": one_controller,
    "results are of all jobs": results_are_of_all_jobs,
    "other space is refused": partial(change_is_refused, "space", ("x", "2.0")),
    "other direction is refused": partial(change_is_refused, "direction", ("direction", "maximize")),
    "other fixed parameter is refused": partial(change_is_refused, "fixed", ("fixed", "2")),
    "free slots are filled": free_slots_are_filled,
}


def judge(story: Story) -> dict[str, Verdict]:
    """Each point's verdict."""
    return {name: point(story) for name, point in POINTS.items()}
