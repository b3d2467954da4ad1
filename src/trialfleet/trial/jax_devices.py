"""Whether this process has devices of JAX, found out without importing it."""

import sys
from typing import Any


def jax_has_devices() -> bool:
    """Whether jax was asked for its devices: from then on it refuses another number of them."""
    config: Any = getattr(sys.modules.get("jax"), "config", None)
    if config is None:
        return False
    number = config.jax_num_cpu_devices
    try:
        config.update("jax_num_cpu_devices", 2 if number == 1 else 1)
    except RuntimeError:
        return True
    config.update("jax_num_cpu_devices", number)
    return False
