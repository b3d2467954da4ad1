"""What a compiled program says of itself: its collectives, its products, and its bytes on each device.

Sharding, memory and recompilation cannot be seen in a loss: two programs that compute the same may move a hundred times
as much. Read from the text of the optimised HLO, in which what is inside of a loop stands once: it counts here as often
as the loop runs, which the compiler's own count of operations (`cost_analysis`) does not heed.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = [a-z]+\d*\[([\d,]*)\]")
_PRODUCT = re.compile(
    r" = \(?[a-z]+\d*\[(?P<result>[\d,]*)\].*? (?:dot|convolution|custom-call)\((?P<operands>[^)]*)\)(?P<how>.*)"
)
# A GPU's compiler calls libraries: cuBLAS and cuDNN say in their own words what is contracted.
_LIBRARY = re.compile(r'custom_call_target="__(?:cublas|cudnn\$conv)')
_CONTRACTED = re.compile(r"lhs_contracting_dim(?:ension)?s\"?[=:][{\[]([\d,\"]*)[}\]]")
_KERNEL = re.compile(r"dim_labels=\w+_(\w+)->")


class Collective(NamedTuple):
    """Exchanges of one kind between devices.

    Attributes:
        kind: one of `KINDS`.
        bytes: on one device: of the result, or of what is scattered, which is larger.
        times: how often it runs in one call of the program.
    """

    kind: str
    bytes: int
    times: int


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
        arguments: what the program is given, donated arrays included.
        outputs: what it returns and does not put where a donated argument was.
        temporaries: the largest sum of what it needs in between.
    """

    arguments: int
    outputs: int
    temporaries: int

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries


def collectives(program: Any) -> list[Collective]:
    """The collectives of a compiled program (what `jax.jit(f).lower(…).compile()` gives)."""
    blocks = _blocks(program.as_text())
    times = _times(blocks)
    found: Counter[tuple[str, int]] = Counter()
    for name, lines in blocks.items():
        for kind, size in _exchanges(lines):
            found[kind, size] += times.get(name, 0)
    return sorted(Collective(kind, size, count) for (kind, size), count in found.items() if count)


def flops(program: Any) -> float:
    """Floating-point operations of the products and convolutions of a compiled program, on one device."""
    blocks = _blocks(program.as_text())
    times = _times(blocks)
    shapes: dict[str, list[int]] = {}
    for lines in blocks.values():
        shapes |= {match[1]: _sizes(match[2]) for line in lines if (match := _DEFINED.match(line))}
    total = 0
    for name, lines in blocks.items():
        products = (match for line in lines if (match := _product(line)))
        total += times.get(name, 0) * sum(_operations(product, shapes) for product in products)
    return float(total)


def by_kind(found: list[Collective]) -> dict[str, tuple[int, int]]:
    """For each kind how many run in one call, and their bytes."""
    kinds = sorted({one.kind for one in found})
    return {
        kind: (
            sum(one.times for one in found if one.kind == kind),
            sum(one.times * one.bytes for one in found if one.kind == kind),
        )
        for kind in kinds
    }


def memory(program: Any) -> Memory:
    """The bytes of a compiled program on one device, as its compiler has planned them."""
    sizes = program.memory_analysis()
    return Memory(
        arguments=sizes.argument_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
    )


def _product(line: str) -> re.Match[str] | None:
    if " custom-call(" in line and not _LIBRARY.search(line):
        return None
    return _PRODUCT.search(line)


def _operations(product: re.Match[str], shapes: Mapping[str, list[int]]) -> int:
    """Two for each number of the result and each pair of numbers that goes into it."""
    names = [name.split()[-1].lstrip("%") for name in product["operands"].split(", ")[:2]]
    first, second = (shapes[name] for name in names)
    pairs = 0
    if found := _CONTRACTED.search(product["how"]):
        pairs = prod(first[axis] for axis in _sizes(found[1].replace('"', "")))
    elif found := _KERNEL.search(product["how"]):  # each result sees the whole kernel of its output feature
        pairs = prod(second) // second[found[1].index("o")]
    return 2 * prod(_sizes(product["result"])) * pairs


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def _blocks(text: str) -> dict[str, list[str]]:
    """The lines of each computation, the entry's under ''."""
    blocks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line.rstrip()):
            current = blocks.setdefault("" if match[1] else match[2], [])
        else:
            current.append(line)
    return blocks


def _times(blocks: Mapping[str, list[str]]) -> dict[str, int]:
    """How often each computation runs, loops whose length is not known once."""
    times: Counter[str] = Counter()

    def run(name: str, count: int) -> None:
        times[name] += count
        for line in blocks.get(name, []):
            trips = int(found[1]) if " while(" in line and (found := _TRIPS.search(line)) else 1
            called = [
                *_CALLED.findall(line),
                *(one.strip(" %") for part in _BRANCHES.findall(line) for one in part.split(",")),
            ]
            for other in called:
                if other in blocks:
                    run(other, count * trips)

    run("", 1)
    return dict(times)


def _exchanges(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Kind and bytes of each collective; of one in two parts the first counts."""
    shapes = {match[1]: match[0] for line in lines if (match := _DEFINED.match(line))}
    for line in lines:
        match = _OPERATION.match(line)
        if match is None or match[2].removesuffix("-start") not in KINDS:
            continue
        kind, begun = match[2].removesuffix("-start"), match[2].endswith("-start")
        sizes = _array_sizes(match[1])
        if kind == "reduce-scatter":
            operands = line[match.end() :].partition(")")[0]
            sizes = [size for name in re.findall(r"%([\w.\-]+)", operands) for size in _array_sizes(shapes[name])]
        elif begun and kind == "all-gather":  # (operands, results)
            sizes = sizes[len(sizes) // 2 :]
        elif begun and kind == "collective-permute":  # (operand, result, and on some devices two counters)
            sizes = sizes[1:2]
        yield kind, sum(sizes)


def _array_sizes(text: str) -> list[int]:
    """Bytes of each array of a type."""
    return [_BYTES.get(dtype, 4) * prod(_sizes(sizes)) for dtype, sizes in _ARRAY.findall(text)]
