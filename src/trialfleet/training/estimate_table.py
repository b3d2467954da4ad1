"""What a dry run says of memory and time, for people."""

from collections.abc import Iterator

from rich.console import Console

from trialfleet.training.estimation import EVALUATE, INIT, PREPARE, STEP, Estimate

_WORDS = {
    INIT: "init, which makes the state",
    STEP: "a step",
    EVALUATE: "an evaluation",
    PREPARE: "making a batch",
}


def show(estimate: Estimate, console: Console) -> None:
    """Print the table, and the verdict below it; lines are cut by the terminal, never by us."""
    rows = [f"{name:<12}{value:>13}  {meaning}" for name, value, meaning in _rows(estimate)]
    for line in (*rows, *_notes(estimate), *verdict(estimate)):
        console.print(line, soft_wrap=True)


def verdict(estimate: Estimate) -> list[str]:
    """Whether it fits: of which bytes, and how sure that is."""
    spec, peak = estimate.spec, estimate.peak
    if spec is None:
        return ["fits        no device to hold it against: runtime.device names one, for example runtime.device=h100"]
    has = f"{estimate.device} has {size(spec.memory)} ({spec.source})"
    if not state_fits(estimate):
        return [f"fits        no: the state alone is {size(estimate.state_bytes)} on each device, and {has}"]
    if peak is None:
        return [f"fits        the state does: {size(estimate.state_bytes)} on each device, and {has}"]
    said = f"{size(peak)} on each device at most{_how_sure(estimate)}, and {has}"
    if not peak_fits(estimate):
        return [f"fits        probably not: {said}"]
    lines = [f"fits        yes: {said}"]
    if spec.kinds[0].startswith("NVIDIA") and peak > 0.75 * spec.memory:
        lines.append("            jax takes 75 % of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more")
    return lines


def state_fits(estimate: Estimate) -> bool:
    """Whether the device has room for the state alone; true where there is no device to ask about."""
    return estimate.spec is None or estimate.state_bytes <= estimate.spec.memory


def peak_fits(estimate: Estimate) -> bool:
    """The same of the peak, as far as it is known."""
    return estimate.spec is None or (estimate.peak or estimate.state_bytes) <= estimate.spec.memory


def size(count: float) -> str:
    """Bytes, three digits of them: 1.18 GB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"


def _rows(estimate: Estimate) -> Iterator[tuple[str, str, str]]:
    counts = estimate.parameters
    yield "parameters", f"{sum(counts.values()):,}", f"{counts['trained']:,} trained, {counts['frozen']:,} frozen"
    yield "state", size(estimate.state_bytes), "on each device: exact"
    for part, count in estimate.state.items():
        if count:
            yield "", size(count), f"  {part}"
    for name, planned in estimate.programs.items():
        label = "peak" if name == INIT else ""
        yield label, size(estimate.peak_of(name)), f"on each device during {_WORDS[name]}{_how_sure(estimate)}"
        if name != INIT:
            yield (
                "",
                size(estimate.state_bytes + estimate.waiting),
                "  the state, and batches that are made ready ahead",
            )
            yield "", size(planned.given), "  its batch and other inputs"
            yield "", size(planned.memory.temporaries), "  activations, gradients and other temporaries"
            yield "", size(planned.memory.outputs), "  results"
    yield from _work(estimate)


def _work(estimate: Estimate) -> Iterator[tuple[str, str, str]]:
    """A step's operations, collectives and time."""
    model, step = estimate.model_flops, estimate.programs.get(STEP)
    yield "work", "unknown" if model is None else _flops(model), "a step: what the model needs, over all devices"
    if step is None:
        return
    yield "", _flops(step.flops), "a step: products of its program, on each device"
    for kind, (count, moved) in step.collectives.items():
        yield "", f"{count} x", f"a step: {kind}, together {size(moved)} on each device"
    seconds = estimate.seconds()
    if not seconds:
        return
    longest, together = (f"{choice(seconds.values()) * 1e3:.3g} ms" for choice in (max, sum))
    yield "time", longest, f"a step at the peak rates of {estimate.device}, {together} if nothing overlaps"
    for what, took in seconds.items():
        yield "", f"{took * 1e3:.3g} ms", f"  {what}"


def _notes(estimate: Estimate) -> Iterator[str]:
    if STEP not in estimate.programs:
        yield "note        the step is not known: prepare() makes its batches, and the workload has no prepared()"
    if estimate.compiler == "cpu":
        yield "note        peaks, products and collectives are those of a CPU's programs: estimates for other devices"


def _how_sure(estimate: Estimate) -> str:
    return " (an estimate)" if estimate.compiler == "cpu" else ""


def _flops(count: float) -> str:
    for unit, name in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.3g} FLOP"
