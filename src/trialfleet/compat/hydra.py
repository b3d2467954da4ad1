"""What a driver needs of Hydra that has no public name.

`hydra._internal.config_repository.ConfigRepository`, `ConfigLoader.repository`
    Where a config loader finds config files. `ConfigLoader.get_search_path` is public, but the loader read it when
    it was made, and looks nowhere else after it was changed.
`ConfigLoader._active_repository`
    The config files that the loader has read, kept for the next look. They would go into the pickle that all jobs
    load, and with them the passwords in them.
`ConfigLoaderImpl`, its `_parse_overrides_and_create_caching_repo` and `_compose_config_from_defaults_list`
    Composing a config: the first chooses where its files are read from, the second merges them before any override of
    a value is applied. Hydra does both anew for each job of a sweep, which takes longer than many a job does.
`hydra._internal.config_repository.CachingConfigRepository`, `hydra._internal.core_plugins.basic_launcher.BasicLauncher`
    Config files that were read once; and the one launcher that composes its jobs' configs in the driver's process,
    where it runs them one after another.
`hydra.core.override_parser.overrides_parser.OverridesParser.parse_rule`
    Reads an override, of which Hydra parses each twice a job. Most are the same in all jobs of a sweep.
`JobReturn._return_value`
    What a launcher gave back for a trial that did not complete. The public `return_value` raises it, which only an
    exception can be: a launcher that gives back anything else could not be told from a trial that failed.

`Singleton._instances`, and what `Plugins` keeps: `plugin_type_to_subclass_list`, `class_name_to_class`, `stats`
    The plugins that a process has found. Whoever sets the state of Hydra's singletons looks for all of them again, in
    all packages that are installed, which takes longer than many a job does.

`_target_`, `_partial_` and `_execution_whitelist_` are no private names, whatever they look like: they are keys and
arguments of `hydra.utils.instantiate`, which its documentation describes.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from trialfleet.compat.omegaconf import be_quick

SEEN = ("1.4.0rc3",)


def read_search_path_again(config_loader: Any) -> None:
    """Make a config loader look for files where its search path says now.

    Args:
        config_loader: a `hydra.core.config_loader.ConfigLoader`; Hydra has one class of them.
    """
    config_loader.repository = ConfigRepository(config_search_path=config_loader.get_search_path())


def look_elsewhere(config_loader: Any, before: str, now: str) -> None:
    """Make a config loader find below the folder `now` the config files that it would look for below `before`."""
    for element in config_loader.get_search_path().get_path():
        if element.path is not None and element.path.startswith(f"file://{before}/"):
            element.path = f"file://{now}{element.path.removeprefix(f'file://{before}')}"
    read_search_path_again(config_loader)


def forget_files(config_loader: Any) -> None:
    """Make a config loader forget the config files that it has read: it reads them again when it needs them."""
    if hasattr(config_loader, "_active_repository"):  # a loader of the user's own may keep none
        config_loader._active_repository = None


def failure_of(returned: JobReturn) -> Any:
    """What a launcher gave back for a job that did not complete: the exception that it failed of, if all is well."""
    return returned._return_value


def runs_one_by_one(launcher: Launcher | None) -> bool:
    """Whether a launcher runs its jobs one after another in this process: several at once gain nothing by it."""
    return isinstance(launcher, BasicLauncher)


def compose_quickly(launcher: Launcher) -> None:
    """Let a launcher that composes its jobs' configs in this process read and merge the config files once.

    Without effect on launchers that may hand their context to other processes, and on config loaders of another kind
    than Hydra's own.
    """
    context = getattr(launcher, "hydra_context", None)
    if type(launcher) is BasicLauncher and context is not None and type(context.config_loader) is ConfigLoaderImpl:
        launcher.hydra_context = replace(context, config_loader=RememberingLoader(context.config_loader))


class FoundPlugins:
    """The plugins that this process has found until now, to be given to it again."""

    def __init__(self) -> None:
        self._found = _copied(Plugins.instance())

    def give(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the singletons (`Singleton.get_state`) that has them besides."""
        return {**state, "instances": {**state["instances"], Plugins: _copied(self._found)}}


def set_singletons(state: dict[str, Any]) -> None:
    """Give this process singletons of another one's; plugins it has found already are not looked for again."""
    own = Singleton._instances.get(Plugins)
    if own is not None:
        state = {**state, "instances": {**state["instances"], Plugins: own}}
    Singleton.set_state(state)


def _copied(plugins: Plugins) -> Plugins:
    """The same classes, in containers of its own."""
    copied = object.__new__(Plugins)
    copied.plugin_type_to_subclass_list = defaultdict(
        list, {kind: list(classes) for kind, classes in plugins.plugin_type_to_subclass_list.items()}
    )
    copied.class_name_to_class = dict(plugins.class_name_to_class)
    copied.stats = plugins.stats
    return copied


_own_parse = OverridesParser.parse_rule
_own_functions = create_functions().functions


@lru_cache(maxsize=1000)
def _remembered(override: str) -> Any:
    return _own_parse(OverridesParser.create(), override, "override")


def _parsed(self: OverridesParser, s: str, rule_name: str) -> Any:
    """What a parser makes of a text; of an override that was parsed before, a copy of that.

    A parser with other functions than Hydra's reads another language, and `shuffle` of a list is new each time.
    """
    lasts = rule_name == "override" and "shuffle" not in s and self.functions.functions == _own_functions
    return copy.deepcopy(_remembered(s)) if lasts else _own_parse(self, s, rule_name)


_LOADERS: dict[str, "RememberingLoader"] = {}  # of this process, by what they were asked for


def remembered_loader(loader: Any, what: str) -> Any:
    """A loader that composes what this one does, and remembers files and merges from call to call in this process.

    Args:
        loader: a `hydra.core.config_loader.ConfigLoader`; returned as it is if it is of another kind than Hydra's own.
        what: names the loader: of equal names the first one's files count.
    """
    if type(loader) is not ConfigLoaderImpl:
        return loader
    if what not in _LOADERS:
        _LOADERS[what] = RememberingLoader(loader)
    return _LOADERS[what]


def is_remembered(what: str) -> bool:
    """Whether this process, or the one that it was forked from, has such a loader."""
    return what in _LOADERS


class RememberingLoader(ConfigLoaderImpl):
    """Composes the same configs as Hydra's loader, from files as they were when they were first needed.

    What the overrides choose (groups, the search path) is worked out for each config; each choice of files is
    merged once, and copied for the configs that make the same choice: what happens to a file after it was read changes
    none of them.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        super().__init__(loader.config_search_path)
        be_quick()
        OverridesParser.parse_rule = _parsed  # type: ignore[method-assign]
        self.repository = loader.repository
        self._read: dict[str, CachingConfigRepository] = {}  # by the overrides that choose the search path
        self._merged: dict[str, DictConfig] = {}  # by the files, in their order, with their packages

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str], parsed_overrides: Any = None
    ) -> Any:
        parsed = self.parse_overrides(config_name, overrides) if parsed_overrides is None else parsed_overrides
        key = repr([config_name, *(one.input_line for one in parsed if "searchpath" in one.key_or_group)])
        if key not in self._read:
            _, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides, parsed)
            for looked_up in ("group_exists", "config_exists"):
                setattr(repository, looked_up, cache(getattr(repository, looked_up)))
            self._read[key] = repository
        return parsed, self._read[key]

    def _compose_config_from_defaults_list(self, defaults: Sequence[Any], repo: Any) -> DictConfig:
        """The merged files. Merging changes what it merges, so it gets files that it alone has read."""
        key = repr((id(repo), list(defaults)))  # repositories are kept, and with them their identity
        if key not in self._merged:
            anew = CachingConfigRepository(repo.delegate)
            self._merged[key] = super()._compose_config_from_defaults_list(defaults=list(defaults), repo=anew)
        return copy.deepcopy(self._merged[key])
