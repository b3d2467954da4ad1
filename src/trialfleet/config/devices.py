"""What accelerators can do at most, by the names that `runtime.device` takes. Sources: the makers' data sheets.

NVIDIA: the data sheets "NVIDIA A100 Tensor Core GPU", "NVIDIA H100 Tensor Core GPU", "NVIDIA H200 Tensor Core GPU" (SXM
modules, rates without sparsity) and "NVIDIA L4 Tensor Core GPU". Google: the tables "Key chip specifications" of the
Cloud TPU documentation, pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e".

A sheet's GB are taken as 10^9 bytes, though chips have a little more: that is the runtime's own.
"""

from typing import NamedTuple

_TERA, _GIGA = 1e12, 1e9


class Device(NamedTuple):
    """One accelerator: what a mesh is made of.

    Attributes:
        kinds: how jax names it.
        bfloat16: FLOP/s of products of bfloat16.
        float32: FLOP/s of products of float32 as jax calculates them by default: TF32 on NVIDIA, bfloat16 on a TPU.
        memory: bytes.
        bandwidth: bytes/s of that memory.
        link: bytes/s that it can send to the others of its machine or slice, over all of its links.
        source: the data sheet.
    """

    kinds: tuple[str, ...]
    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    link: float
    source: str

    def rate(self, dtype: str) -> float:
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _nvidia(kind: str, bfloat16: float, tf32: float, memory: int, bandwidth: float, link: float, sheet: str) -> Device:
    """TFLOP/s, GB and GB/s, as the sheets have them."""
    rates = (bfloat16 * _TERA, tf32 * _TERA, int(memory * _GIGA), bandwidth * _GIGA, link * _GIGA)
    return Device((kind,), *rates, f"data sheet NVIDIA {sheet} Tensor Core GPU")


def _tpu(kinds: tuple[str, ...], bfloat16: float, memory: int, bandwidth: float, link: float, page: str) -> Device:
    """TFLOP/s, GB and GB/s, as the pages have them."""
    rates = (bfloat16 * _TERA, bfloat16 * _TERA, int(memory * _GIGA), bandwidth * _GIGA, link * _GIGA)
    return Device(kinds, *rates, f"Cloud TPU documentation, TPU {page}")


# Links: NVLink's figure on a sheet is the sum of both directions, and so are those of TPU v5e and v6e; the pages of v4
# and v5p give 2400 and 4800 Gbit/s for one. The L4 has PCIe Gen4 x16 alone.
DEVICES: dict[str, Device] = {
    "a100-40g": _nvidia("NVIDIA A100-SXM4-40GB", 312, 156, 40, 1555, 600 / 2, "A100"),
    "a100-80g": _nvidia("NVIDIA A100-SXM4-80GB", 312, 156, 80, 2039, 600 / 2, "A100"),
    "h100": _nvidia("NVIDIA H100 80GB HBM3", 989, 494, 80, 3350, 900 / 2, "H100"),
    "h200": _nvidia("NVIDIA H200", 989, 494, 141, 4800, 900 / 2, "H200"),
    "l4": _nvidia("NVIDIA L4", 121, 60, 24, 300, 64 / 2, "L4"),
    "v4": _tpu(("TPU v4",), 275, 32, 1200, 2400 / 8, "v4"),
    "v5e": _tpu(("TPU v5 lite", "TPU v5e"), 197, 16, 819, 400 / 2, "v5e"),
    "v5p": _tpu(("TPU v5", "TPU v5p"), 459, 95, 2765, 4800 / 8, "v5p"),
    "v6e": _tpu(("TPU v6 lite", "TPU v6e"), 918, 32, 1638, 800 / 2, "v6e"),
}
DEVICES["a100"] = DEVICES["a100-80g"]


def of_kind(kind: str) -> str | None:
    """The name of what jax calls `kind`; None if the table does not have it."""
    return next((name for name, device in DEVICES.items() if kind in device.kinds), None)


class Needs(NamedTuple):
    """What a training needs of each device, and what the device has; in bytes.

    Attributes:
        state: of the state of the training and its frozen parameters: exact.
        peak: at most at a time, as a compiler plans it; None if that is not known.
    """

    device: str
    memory: int
    state: int
    peak: int | None
