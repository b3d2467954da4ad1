"""The trainer's devices: what a line of a guide would train is traced here."""

import tests.training.conftest  # noqa: F401  # before anything imports jax
