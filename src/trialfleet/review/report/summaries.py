"""Many numbers as few: quantiles by bin, counts by cell. Every trial counts; none is left out by chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Bands:
    """Quantiles of what fell into each bin that has anything.

    Attributes:
        middles: of the bins.
        quantiles: rows are those of `QUANTILES`, columns the bins.
        counts: of values in each bin.
    """

    middles: Floats
    quantiles: Floats
    counts: NDArray[np.int64]


def bands(places: Floats, values: Floats, edges: Floats) -> Bands:
    """Quantiles of `values` by the bin that their place is in."""
    known = np.isfinite(places) & np.isfinite(values)
    bins = cells(places[known], edges)
    inside = bins >= 0
    bins, found = bins[inside], values[known][inside]
    order = np.argsort(bins, kind="stable")
    bins, found = bins[order], found[order]
    numbers, starts, counts = np.unique(bins, return_index=True, return_counts=True)
    parts = [np.quantile(found[start : start + count], QUANTILES) for start, count in zip(starts, counts, strict=True)]
    table = np.array(parts).T if parts else np.empty((len(QUANTILES), 0))
    return Bands((edges[numbers] + edges[numbers + 1]) / 2, table, counts)


def cells(places: Floats, edges: Floats) -> NDArray[np.int64]:
    """The bin of each place; -1 outside of all. The last bin has its upper end."""
    bins = np.searchsorted(edges, places, side="right") - 1
    bins[places == edges[-1]] = len(edges) - 2
    bins[(bins >= len(edges) - 1) | ~np.isfinite(places)] = -1
    return bins.astype(np.int64)


def counts(across: Floats, up: Floats, across_edges: Floats, up_edges: Floats) -> NDArray[np.int64]:
    """How many lie in each cell: rows go up, columns across."""
    columns, rows = cells(across, across_edges), cells(up, up_edges)
    inside = (columns >= 0) & (rows >= 0)
    table = np.zeros((len(up_edges) - 1, len(across_edges) - 1), dtype=np.int64)
    np.add.at(table, (rows[inside], columns[inside]), 1)
    return table
