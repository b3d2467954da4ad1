"""Which nodes of a Slurm cluster the jobs of a launcher can go to."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trialfleet.compat.submitit import node_names
from trialfleet.sweep.fleets import slurm_answers, slurm_command, slurm_memory
from trialfleet.sweep.fleets.slurm_answers import Node

NODES_SECONDS = 60.0  # how long sinfo's answer is good for


class SlurmNodes:
    """Args:
    parameters: submitit's parameters of a Slurm script.
    pass_over: hears of lines that sinfo is not known to print.
    """

    def __init__(self, parameters: Mapping[str, Any], pass_over: Callable[[str, Sequence[str]], None]) -> None:
        self._asked = slurm_memory.flat(parameters)
        self._pass_over = pass_over
        self._names: list[str] = []
        self._good_until = float("-inf")
        self.excluded: set[str] = set()

    def left(self, now: float) -> list[str]:
        """Names of the nodes in service that take the launcher's jobs and are not excluded; none if Slurm is mute.

        Args:
            now: seconds of a clock that never goes back.
        """
        if now >= self._good_until:
            self._names, self._good_until = self._ask(), now + NODES_SECONDS
        return [name for name in self._names if name not in self.excluded]

    def exclude_list(self) -> str:
        """The user's excluded nodes, and ours."""
        named = self._asked.get("exclude")
        return ",".join([*([str(named)] if named else []), *sorted(self.excluded)])

    def _ask(self) -> list[str]:
        partition = self._asked.get("partition")
        named = ("-p", str(partition)) if partition else ()
        done = slurm_command.run("sinfo", "-h", "-N", *named, "-o", slurm_answers.NODES_FORMAT)
        if done is None or done.returncode != 0:
            return []
        nodes, strange = slurm_answers.nodes(done.stdout)
        self._pass_over("sinfo", strange)
        if not partition and any(node.default for node in nodes):
            nodes = [node for node in nodes if node.default]
        unwanted = self._unwanted()
        return [node.name for node in nodes if node.in_service and self._fits(node) and node.name not in unwanted]

    def _fits(self, node: Node) -> bool:
        """Whether the node has the features of the constraint: one of them where they are joined by `|`, else all."""
        constraint = str(self._asked.get("constraint") or "")
        features = set(re.findall(r"[\w.-]+", constraint))
        there = features & node.features
        return bool(there) if "|" in constraint else there == features

    def _unwanted(self) -> set[str]:
        """The nodes that the user excludes; none if that is no list of names (Slurm takes a file, too)."""
        with contextlib.suppress(ValueError):
            return set(node_names(str(self._asked.get("exclude") or "")))
        return set()
