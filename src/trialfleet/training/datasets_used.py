"""What a training says of its data: name, digest and source of each set, which MLflow shows as the run's inputs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from trialfleet.trial import records


def described(config: Any) -> list[dict[str, str]]:
    """The data set of a workload's config, if it has one as the field `dataset`.

    The digest is that of its settings: the same one means that the same data were asked for, in the same split.
    """
    dataset = getattr(config, "dataset", None)
    if not dataclasses.is_dataclass(dataset) or isinstance(dataset, type):
        return []
    settings = dataclasses.asdict(dataset)
    name = str(settings.get("name") or type(dataset).__name__.lower())
    places = list(dict.fromkeys(_places(settings.values())))
    digest = records.digest(records.plain(settings))
    return [{"name": name, "digest": digest, "source": ", ".join(places) or name}]


def _places(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and "/" in value and "\n" not in value and "<" not in value:
            yield value
        elif isinstance(value, list | tuple):
            yield from _places(value)
