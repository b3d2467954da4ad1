"""What is wrong with the machine: a disk that is full or away for a moment, and a clock that is set."""

from benchmarks.faults.fault import fault
from benchmarks.faults.study import Study

DISK, CLOCK = "disk", "clock"


def _disk(study: Study, error: str) -> bool:
    """All processes of the study get this error from its folder, for 10 ms to a second."""
    file = study.control / "disk"
    if file.exists():
        return False
    file.write_text(error)
    study.later(0.01, 1.0, lambda: file.unlink(missing_ok=True))
    return True


@fault(DISK)
def no_space(study: Study) -> bool:
    return _disk(study, "ENOSPC")


@fault(DISK)
def input_output_error(study: Study) -> bool:
    return _disk(study, "EIO")


@fault(DISK)
def stale_file_handle(study: Study) -> bool:
    return _disk(study, "ESTALE")


@fault(DISK, between=True)
def start_on_a_disk_that_fails(study: Study) -> bool:
    return _disk(study, study.chance.choice(["ENOSPC", "EIO", "ESTALE"]))


@fault(DISK, "tmpfs")
def fill_the_disk(study: Study) -> bool:
    """The file system of the study has no byte left, for a while."""
    filler = study.place / "filler"
    if filler.exists():
        return False
    try:
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 16))
    except OSError:
        pass
    study.later(0.2, 3.0, lambda: filler.unlink(missing_ok=True))
    return True


@fault(CLOCK)
def set_the_clock(study: Study) -> bool:
    """For the driver and the jobs, by minutes to days, forward or back."""
    _set(study)
    return True


@fault(CLOCK, between=True)
def set_the_clock_between(study: Study) -> bool:
    _set(study)
    return True


def _set(study: Study) -> None:
    hours = study.chance.choice([-48, -4, -1, -0.01, 0.01, 1, 4, 48])
    file = study.control / "clock"
    fresh = file.with_name("clock.new")
    fresh.write_text(str(3600.0 * hours))
    fresh.replace(file)
    study.later(0.5, 4.0, lambda: file.unlink(missing_ok=True))
