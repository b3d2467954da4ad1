"""What Slurm's commands print, taken apart.

A site may print what it likes besides, and an answer may be cut: only lines that bear our mark and are whole
tell something, and what else there is comes along to be shown.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

MARK = "trialfleet"
# The script comes last, since a path may contain anything; a row ends with a bar, so that a cut one is known.
QUEUE_FORMAT = f"{MARK}|%i|%T|%N|%r|%o|"
NODES_FORMAT = f"{MARK}|%N|%T|%P|%f|"
PARTITIONS_FORMAT = f"{MARK}|%P|%a|%l|%T|%D|%G|"
_QUEUE_HEADER = "JOBID"  # squeue's own word over %i

_SUBMITTED = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?")
_ACCOUNTED = re.compile(r"(\d+(?:[_+]\d+)?)\|([A-Z_]+)")

_AWAY = re.compile(
    r"Unable to contact|Connection refused|Connection timed out|Socket timed out|Zero Bytes|not responding|"
    r"Communication connection failure|Transport endpoint|in standby mode",
    re.IGNORECASE,
)
_LIMITS = re.compile(r"Limit|QOSMax|policy|Resource temporarily unavailable|QOSGrp", re.IGNORECASE)
# Not what is invalid about munge's credentials, nor nodes that are down or taken just now: that passes.
_WRONG = re.compile(
    r"invalid(?!.*credential)|unrecognized|unknown option|not available(?! now| \(down)|can ?not be satisfied|"
    r"permission|not permitted|more processors requested than permitted",
    re.IGNORECASE,
)


class Refusal(Enum):
    """Why sbatch submitted nothing, as its words have it."""

    AWAY = "away"  # the controller did not answer: the request may have reached it all the same
    LIMIT = "limit"  # of jobs
    WRONG = "wrong"  # the request itself
    OTHER = "other"  # it may pass


@dataclass(frozen=True)
class Row:
    """A job in the queue."""

    state: str
    node: str  # the first of its nodes; empty if it has none
    reason: str
    script: str


@dataclass(frozen=True)
class Queue:
    """An answer of squeue.

    Attributes:
        rows: by job id.
        strange: lines that are none of squeue's rows.
        whole: whether nothing was cut off; if something was, a job that is missing may be there nevertheless.
    """

    rows: dict[str, Row]
    strange: list[str]
    whole: bool


@dataclass(frozen=True)
class Node:
    """A node of a partition."""

    name: str
    in_service: bool
    partition: str
    default: bool  # whether its partition takes the jobs that name none
    features: frozenset[str]


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are in the same state and have the same devices.

    Attributes:
        up: whether the partition takes jobs.
        time_limit: of the partition's jobs, as Slurm writes it.
        gpus: of each node.
    """

    partition: str
    default: bool
    up: bool
    time_limit: str
    state: str
    in_service: bool
    nodes: int
    gres: str  # empty if they have none
    gpus: int


def queue(text: str) -> Queue:
    """Read squeue's answer, made with QUEUE_FORMAT and with its header: that shows that squeue spoke at all."""
    rows, strange, headed = {}, [], False
    whole = text.endswith("\n")
    for line, fields in _table(text, 5):
        if fields is None:
            strange.append(line)
            whole = whole and f"{MARK}|" not in line
        elif fields[0] == _QUEUE_HEADER:
            headed = True
        else:
            job, state, nodes, reason, script = fields
            rows[job] = Row(state, _first(nodes), reason, script)
    return Queue(rows, strange, whole and headed)


def nodes(text: str) -> tuple[list[Node], list[str]]:
    """Read sinfo's answer, made with NODES_FORMAT; and the lines that are none of its rows."""
    found, strange = [], []
    for line, fields in _table(text, 4):
        if fields is None:
            strange.append(line)
            continue
        name, state, partition, features = fields
        # A star behind the partition says that it is the default one.
        node = Node(name, _in_service(state), partition.rstrip("*"), "*" in partition, frozenset(features.split(",")))
        found.append(node)
    return found, strange


def partitions(text: str) -> list[NodeGroup]:
    """Read sinfo's answer, made with PARTITIONS_FORMAT."""
    groups = []
    for _, fields in _table(text, 6):
        if fields is None or not fields[4].isdecimal():
            continue
        name, up, limit, state, nodes, gres = fields
        gres = "" if gres == "(null)" else gres
        default, in_service = "*" in name, _in_service(state)
        gpus = _gpus(gres)
        groups.append(
            NodeGroup(name.rstrip("*"), default, up == "up", limit, state, in_service, int(nodes), gres, gpus)
        )
    return groups


def _in_service(state: str) -> bool:
    """Whether nodes of this state take jobs. A star behind it says that they do not answer."""
    return "*" not in state and not re.match(r"down|drain|fail|err|unk|inval|future|maint", state.lower())


def _gpus(gres: str) -> int:
    """How many there are in `gpu:2`, `gpu:a100:4(S:0-1)` or `shard:8,gpu:1`."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres))


def submitted(text: str) -> tuple[str | None, list[str]]:
    """The job id in sbatch's answer, on whichever line it is, and the other lines. A cut number is another job's."""
    job, strange = None, []
    for line in _lines(text[: text.rfind("\n") + 1]):
        if found := _SUBMITTED.fullmatch(line):
            job = found[1]
        else:
            strange.append(line)
    return job, strange


def accounted(text: str) -> tuple[dict[str, str], list[str]]:
    """The states in sacct's answer, made with `-P -o jobid,state`, by job; and the lines that are none of its rows."""
    states, strange = {}, []
    for line in _lines(text):
        if found := _ACCOUNTED.match(line):
            states[found[1]] = found[2]
        else:
            strange.append(line)
    return states, strange


def refusal(message: str) -> Refusal:
    """What sbatch's complaint says. The order matters: a time limit can be invalid, which is no limit of jobs."""
    for kind, words in ((Refusal.AWAY, _AWAY), (Refusal.WRONG, _WRONG), (Refusal.LIMIT, _LIMITS)):
        if words.search(message):
            return kind
    return Refusal.OTHER


def _table(text: str, columns: int) -> Iterator[tuple[str, list[str] | None]]:
    """Each line, with its fields if it is a whole row of ours. What stands before the mark is somebody else's."""
    for line in _lines(text):
        _, mark, row = line.partition(f"{MARK}|")
        fields = row[:-1].split("|", columns - 1)
        yield line, fields if mark and row.endswith("|") and len(fields) == columns else None


def _lines(text: str) -> list[str]:
    """Not `splitlines`, which cuts at characters that a path or a banner may have."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _first(nodes: str) -> str:
    """The first name of a node list: `n[03-05,9],m1` begins with `n03`. Empty for squeue's words for none."""
    name = re.match(r"(?:[^,\[(]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", name[0]) if name and nodes not in ("n/a", "None assigned") else ""
