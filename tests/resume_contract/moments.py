"""Ways in which a sweep's command ends, each followed by the same command again; and what was seen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import side_file
from .commands import Controller, Done, NeverCame, Sweep
from .side_file import Said
from .sweepers import Launcher, Sweeper

UNDECIDED = 10.0  # seconds after which a controller that neither starts a job nor ends counts as waiting


@dataclass(frozen=True)
class Further:
    """A command after the resume: how it ended, and how many jobs it started."""

    done: Done
    started: int


@dataclass
class Story:
    """What was seen of one sweep.

    Attributes:
        total: of the sweep.
        aggregate: name of the aggregate file.
        cut: what the jobs had said when the first command had ended.
        in_flight: starts of jobs that outlived the first command.
        interrupted: starts of jobs that ended with it, without an end of their own.
        overrides: of each job that had ended by then, what `.hydra/overrides.yaml` was.
        resumed: the same command again; None if the moment does not come to it.
        lines: what all jobs had said when that had ended.
        overrides_now: as `overrides`, after that.
        refilled: whether a free slot got a job while another job ran on; None if there is one slot.
        again: the command once more, with nothing left to do.
        raised: the command with a total that is larger by one.
        second: how a second controller beside the first ended; a code of None if it waited for the first.
        changed: what was changed in the command → what came of it before the resume.
    """

    total: int
    aggregate: str
    cut: list[Said] = field(default_factory=list)
    in_flight: list[Said] = field(default_factory=list)
    interrupted: list[Said] = field(default_factory=list)
    overrides: dict[Path, bytes | None] = field(default_factory=dict)
    resumed: Done | None = None
    lines: list[Said] = field(default_factory=list)
    overrides_now: dict[Path, bytes | None] = field(default_factory=dict)
    refilled: bool | None = None
    again: Further | None = None
    raised: Further | None = None
    second: tuple[int | None, str] | None = None
    changed: dict[str, Further] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """A way in which a sweep's command ends.

    Attributes:
        name: for tables and tests.
        application: overrides that make the jobs wait there; {last} stands for the order of the last job's start.
        play: runs the sweep's commands and notes what is seen.
        spare: jobs of the sweep beyond those that its slots take at once.
    """

    name: str
    application: tuple[str, ...]
    play: Callable[[Sweep, Story], None]
    spare: int = 2

    def of(self, sweeper: Sweeper, launcher: Launcher, folder: Path) -> Story:
        """Play it in an empty folder.

        Raises:
            NeverCame: the sweeper did not come to this moment.
        """
        total = launcher.slots + self.spare
        application = (text.format(last=total - 1) for text in self.application)
        with Sweep(folder, sweeper, launcher, total, *application) as sweep:
            story = Story(total, sweeper.aggregate)
            self.play(sweep, story)
        return story


# ---------------------------------------------------------------- parts of all moments


def _note_cut(sweep: Sweep, story: Story) -> None:
    story.cut, story.overrides = sweep.lines(), sweep.overrides()


def _note_resumed(sweep: Sweep, story: Story, done: Done, killed: bool) -> None:
    """Note what came of the resume.

    Args:
        killed: whether the first controller had no chance to end its jobs.
    """
    story.resumed, story.lines, story.overrides_now = done, sweep.lines(), sweep.overrides()
    without_end = side_file.unfinished(story.lines)
    for job in side_file.unfinished(story.cut):
        outlived = sweep.launcher.outlive if killed else job not in without_end
        (story.in_flight if outlived else story.interrupted).append(job)


def _further(sweep: Sweep, command: list[str]) -> Further:
    before = sweep.starts()
    done = sweep.run(command)
    return Further(done, sweep.starts() - before)


def _resume(sweep: Sweep, story: Story, killed: bool = True) -> None:
    """Give the command again: one job ended while nobody watched, others run on until the new controller works."""
    controller = sweep.start()
    before = len(side_file.starts(story.cut))
    if sweep.launcher.outlive and before < story.total:
        _wait_for_decision(sweep, controller, before)
    sweep.let("open")
    _note_resumed(sweep, story, controller.done(), killed)


def _wait_for_decision(sweep: Sweep, controller: Controller, before: int) -> bool:
    """Wait until a controller starts a job or ends; False if it does neither."""
    try:
        sweep.wait_until(lambda: controller.ended() or sweep.starts() > before, "a start", patience=UNDECIDED)
    except NeverCame:
        return False
    return True


def _kill_at(sweep: Sweep, story: Story, starts: int, ends: int) -> None:
    controller = sweep.start()
    sweep.wait_until(
        lambda: sweep.starts() == starts and sweep.ends() == ends, f"{starts} starts, {ends} ends", of=controller
    )
    controller.kill()
    _note_cut(sweep, story)


# ---------------------------------------------------------------- the moments


def _before_the_first_start(sweep: Sweep, story: Story) -> None:
    sweep.shut_doors()  # jobs that the controller starts before it is killed are not to begin
    controller = sweep.start()
    sweep.wait_until(sweep.has_folder, "a trace of the sweep", of=controller)
    controller.kill()
    _note_cut(sweep, story)
    sweep.let("doors")
    sweep.let("open")
    _note_resumed(sweep, story, sweep.run(), killed=True)


def _while_jobs_run(sweep: Sweep, story: Story) -> None:
    _kill_at(sweep, story, starts=sweep.launcher.slots, ends=0)
    if sweep.launcher.outlive:
        sweep.let("open.0")
        sweep.wait_until(lambda: sweep.ends() == 1, "the end of a job without a controller")
    _resume(sweep, story)


def _after_some_ended(sweep: Sweep, story: Story) -> None:
    _kill_at(sweep, story, starts=2 + sweep.launcher.slots, ends=2)
    if sweep.launcher.outlive:
        sweep.let("open.2")
        sweep.wait_until(lambda: sweep.ends() == 3, "the end of a job without a controller")
    _resume(sweep, story)
    story.again = _further(sweep, sweep.command())
    story.raised = _further(sweep, sweep.command(total=sweep.total + 1))


def _after_all_but_one(sweep: Sweep, story: Story) -> None:
    _kill_at(sweep, story, starts=sweep.total, ends=sweep.total - 1)
    _resume(sweep, story)


def _interrupt(sweep: Sweep, story: Story) -> None:
    controller = sweep.start()
    sweep.wait_until(lambda: sweep.starts() == sweep.launcher.slots, "jobs that run", of=controller)
    controller.interrupt()
    sweep.wait_until(controller.ended, "the end of the interrupted command")
    _note_cut(sweep, story)
    sweep.let("open.0")
    _resume(sweep, story, killed=False)


def _plain_repeat(sweep: Sweep, story: Story) -> None:
    """No kill. With several slots the first job waits for a start that only a slot filled again can bring."""
    controller = sweep.start()
    if sweep.launcher.slots > 1:
        sweep.wait_until(lambda: sweep.ends() > 0 or sweep.starts() > 2, "the end of a job", of=controller)
        story.refilled = _wait_for_decision(sweep, controller, before=sweep.launcher.slots)
    sweep.let("open")
    done = controller.done()
    _note_cut(sweep, story)
    story.again = _further(sweep, sweep.command())
    _note_resumed(sweep, story, story.again.done if done.code == 0 else done, killed=False)


def _two_controllers(sweep: Sweep, story: Story) -> None:
    first = sweep.start()
    sweep.wait_until(lambda: sweep.starts() == sweep.launcher.slots, "jobs that run", of=first)
    second = sweep.start()
    decided = _wait_for_decision(sweep, second, before=sweep.launcher.slots)
    refused = decided and second.ended()
    sweep.let("open")
    done, of_second = first.done(), second.done()
    _note_resumed(sweep, story, done, killed=False)
    waited = not decided and of_second.code == 0
    story.second = (of_second.code if refused or not waited else None), of_second.said


def _changed_command(sweep: Sweep, story: Story) -> None:
    """The command is cut, then changed, and then given as it was, if the changed ones were refused."""
    _kill_at(sweep, story, starts=sweep.launcher.slots, ends=0)
    sweep.let("open")
    running = len(side_file.starts(story.cut)) if sweep.launcher.outlive else 0
    sweep.wait_until(lambda: sweep.ends() == running, "the end of jobs without a controller")
    sweeper = sweep.sweeper
    commands = {
        "space": sweep.command(space=sweeper.other_space),
        "direction": [*sweep.command(), sweeper.other_direction],
        "fixed": sweep.command(fixed=2),
    }
    story.changed = {what: _further(sweep, command) for what, command in commands.items()}
    if all(further.done.code != 0 and further.started == 0 for further in story.changed.values()):
        _note_resumed(sweep, story, sweep.run(), killed=True)


MOMENTS = {
    moment.name: moment
    for moment in (
        Moment("SIGKILL before a start", (), _before_the_first_start),
        Moment("SIGKILL, jobs run", ("holds_from=0",), _while_jobs_run),
        Moment("SIGKILL, some ended", ("fails_at=1", "holds_from=2"), _after_some_ended, spare=3),
        Moment("SIGKILL, all but one", ("fails_at=1", "holds_from={last}"), _after_all_but_one),
        Moment("SIGINT, jobs run", ("holds_from=0",), _interrupt),
        Moment("plain repeat", ("fails_at=1", "waits_at=0"), _plain_repeat),
        Moment("two at once", ("holds_from=0",), _two_controllers),
        Moment("changed command", ("holds_from=0",), _changed_command),
    )
}
