"""What is asked of a driver, from a shell: its answer, its silence, and what is refused before it is asked."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trialfleet.sweep.study import requests
from trialfleet.sweep.study.lease import Lease
from trialfleet.sweep.study.requests import ENQUEUE, RETRY, STOP, Request

from .conftest import Ask


@pytest.fixture
def folder(place: Path) -> Path:
    return place / "sweeps" / "wide"


@pytest.fixture
def lease(folder: Path) -> Iterator[Lease]:
    """A driver is at work."""
    held = Lease(folder / "driver.lock", 60.0, 2.0)
    held.acquire()
    yield held
    held.release()


@pytest.fixture
def answers(folder: Path, lease: Lease) -> Iterator[list[Request]]:
    """It answers: yes to all but a stop. What it was asked."""
    heard: list[Request] = []
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            for name in requests.names(folder)[len(heard) :]:
                heard.append(requests.read(folder, name))
                requests.answer(folder, name, heard[-1].kind != STOP, f"{heard[-1].kind}: said")

    thread = threading.Thread(target=work)
    thread.start()
    yield heard
    over.set()
    thread.join()


def test_a_driver_is_asked_and_answers(ask: Ask, answers: list[Request], lease: Lease) -> None:
    assert ask("retry", "wide", "3") == (0, "retry: said\n")
    assert ask("enqueue", "wide", "optimizer.learning_rate=0.5", "model.dropout=1e-1") == (0, "enqueue: said\n")
    assert ask("stop", "wide", "--detach") == (1, "stop: said\n")
    assert [one.kind for one in answers] == [RETRY, ENQUEUE, STOP]
    assert answers[0].trial == 3
    assert answers[1].point == {"optimizer.learning_rate": 0.5, "model.dropout": 0.1}
    assert (answers[2].jobs, answers[2].driver) == ("leave", lease.token)


def test_a_driver_that_does_not_answer_is_not_waited_for_long(ask: Ask, lease: Lease) -> None:
    code, said = ask("retry", "wide", "3", "--wait", "0")
    assert code == 3
    assert "no answer within 0 s" in said


def test_without_a_driver_the_next_one_is_asked(folder: Path, ask: Ask) -> None:
    code, said = ask("retry", "wide", "3")
    assert (code, "the next one is asked: python train.py -m" in said) == (0, True)
    assert "with a greater hydra.sweeper.n_trials" in ask("enqueue", "wide", "model.dropout=.5")[1]
    assert [requests.read(folder, name).kind for name in requests.names(folder)] == [RETRY, ENQUEUE]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stop", "wide"], "has no driver that could be stopped"),
        (["cancel", "wide", "3"], "trial 3 of study 'wide' has ended"),
        (["retry", "wide", "99"], "study 'wide' has no trial 99"),
        (["enqueue", "wide", "model.dropot=.5"], "did you mean 'model.dropout'?"),
        (["enqueue", "wide", "model.dropout=.5,.6"], "more than one value"),
        (
            ["enqueue", "wide", "model.dropout=9"],
            "model.dropout=9: is no value that study 'wide' has for model.dropout",
        ),
        (["enqueue", "wide", "model.dropout=9"], "give one of interval("),
        (["enqueue", "wide", "model.dropout=abc"], "is no value"),
        (["enqueue", "wide", "model.dropout=true"], "is no value"),
        (["enqueue", "wide", "model.dropout='.5'"], "is no value"),
        (["enqueue", "wide", "model.dropout=[.5]"], "is no value"),
        (["enqueue", "wide", "model.dropout=.5", "model.dropout=.6"], "is given twice"),
        (["enqueue", "wide", "model.dropout"], "quoted as a sweep's command has it"),
    ],
)
def test_what_is_wrong_is_not_asked(folder: Path, ask: Ask, words: list[str], said: str) -> None:
    code, found = ask(*words)
    assert code == 2
    assert said in found
    assert requests.names(folder) == []


def test_requests_are_in_the_order_of_asking(folder: Path) -> None:
    made = []
    for number in range(5):
        made.append(requests.ask(folder, RETRY, "uid", trial=number).id)
        time.sleep(0.001)
    assert requests.names(folder) == made
    assert requests.accepted(folder) == []
