"""The devices and the runs of the trainer's tests."""

from tests.training.conftest import new_run

__all__ = ["new_run"]
