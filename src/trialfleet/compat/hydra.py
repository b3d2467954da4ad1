"""What a driver needs of Hydra that has no public name.

`hydra._internal.config_repository.ConfigRepository`, `ConfigLoader.repository`
    Where a config loader finds config files. `ConfigLoader.get_search_path` is public, but the loader read it when
    it was made, and looks nowhere else after it was changed.
`ConfigLoader._active_repository`
    The config files that the loader has read, kept for the next look. They would go into the pickle that all jobs
    load, and with them the passwords in them.
`JobReturn._return_value`
    What a launcher gave back for a trial that did not complete. The public `return_value` raises it, which only an
    exception can be: a launcher that gives back anything else could not be told from a trial that failed.

`_target_`, `_partial_` and `_execution_whitelist_` are no private names, whatever they look like: they are keys and
arguments of `hydra.utils.instantiate`, which its documentation describes.
"""

from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.utils import JobReturn

SEEN = ("1.4.0rc3",)


def read_search_path_again(config_loader: Any) -> None:
    """Make a config loader look for files where its search path says now.

    Args:
        config_loader: a `hydra.core.config_loader.ConfigLoader`; Hydra has one class of them.
    """
    config_loader.repository = ConfigRepository(config_search_path=config_loader.get_search_path())


def forget_files(config_loader: Any) -> None:
    """Make a config loader forget the config files that it has read: it reads them again when it needs them."""
    if hasattr(config_loader, "_active_repository"):  # a loader of the user's own may keep none
        config_loader._active_repository = None


def failure_of(returned: JobReturn) -> Any:
    """What a launcher gave back for a job that did not complete: the exception that it failed of, if all is well."""
    return returned._return_value
