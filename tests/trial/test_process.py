"""A process is known by host, boot, pid and start: never mistaken for another that got its pid."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from trialfleet.trial.process import Process


def test_this_process_lives_here() -> None:
    own = Process.own()
    assert own.pid == os.getpid()
    assert own == Process.of(os.getpid())
    assert own.is_here()
    assert own.is_alive()


def test_it_survives_a_record() -> None:
    assert Process.from_json(Process.own().to_json()) == Process.own()


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"boot_id": "an earlier boot"}, {"start_time": 1}])
def test_the_same_pid_is_not_the_same_process(other: dict[str, str | int]) -> None:
    """Of another host, an earlier boot, or a pid that was given out again."""
    assert not replace(Process.own(), **other).is_alive()  # type: ignore[arg-type]


def test_an_earlier_boot_of_this_host_can_be_told_from_here() -> None:
    assert replace(Process.own(), boot_id="an earlier boot").is_here()
    assert not replace(Process.own(), host="elsewhere").is_here()


def test_a_process_that_ended_is_dead_even_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process.of(child.pid)
        assert process.is_alive()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not process.is_alive()
        assert Process.of(child.pid) == process
    assert not process.is_alive()
    with pytest.raises(ProcessLookupError):
        Process.of(child.pid)


def test_a_command_with_brackets_in_its_name_is_read_right() -> None:
    """/proc/<pid>/stat holds the command unescaped."""
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) Z (b 1'); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        before = Process.of(child.pid)
        assert child.stdout.readline() == b"ready\n"
        assert Process.of(child.pid) == before
        child.kill()
