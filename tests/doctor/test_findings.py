"""How checks are run: none is in the way of the others, whatever it does."""

import threading
from collections.abc import Iterator

import pytest

from trialfleet.doctor.findings import Check, Finding, examine, ok
from trialfleet.errors import UserError


def well() -> Iterator[Finding]:
    yield ok("well", "all is well")


def test_a_check_that_raises_has_failed_and_the_next_begins() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("broken", "half of it")
        raise ValueError("no such thing")

    def refused() -> Iterator[Finding]:
        raise UserError("x.y: is wrong", "correct it")

    def full() -> Iterator[Finding]:
        raise OSError(28, "No space left on device", "/data/file")

    names = {"broken": broken, "refused": refused, "full": full, "well": well}
    found = list(examine(Check(name, look, 60) for name, look in names.items()))
    assert [(one.name, one.status) for one in found] == [
        ("broken", "ok"), ("broken", "FAIL"), ("refused", "FAIL"), ("full", "FAIL"), ("well", "ok"),
    ]  # fmt: skip
    assert found[1].found == "the check itself failed: ValueError: no such thing"
    assert (found[2].found, found[2].fix) == ("x.y: is wrong", "correct it")
    assert "/data/file: No space left" in found[3].found
    assert all(one.fix for one in found if one.status != "ok")


def test_a_check_that_hangs_has_failed_and_is_ended() -> None:
    ended = threading.Event()

    def hangs() -> Iterator[Finding]:
        ended.wait(60)
        yield ok("hangs", "too late")

    def end() -> list[Finding]:
        ended.set()
        return []

    found = list(examine([Check("hangs", hangs, 0.05, end), Check("well", well, 60)]))
    assert [(one.name, one.status) for one in found] == [("hangs", "FAIL"), ("well", "ok")]
    assert "no answer within 0.05 s" in found[0].found


def test_what_a_check_left_is_put_back_when_somebody_interrupts() -> None:
    ended = threading.Event()

    def end() -> list[Finding]:
        ended.set()
        return []

    findings = examine([Check("well", well, 60, end)])
    next(findings)
    with pytest.raises(KeyboardInterrupt):
        findings.throw(KeyboardInterrupt())
    assert ended.is_set()


def test_a_finding_is_one_line_without_passwords() -> None:
    def tells() -> Iterator[Finding]:
        yield ok("tells", "at postgresql://me:secret@host/db:\n\tcolumn \x1b[31mred")

    (found,) = examine([Check("tells", tells, 60)])
    assert found.found == "at postgresql://me:***@host/db: column [31mred"
