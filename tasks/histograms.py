"""Histograms of durations: sparse counts by bucket, two buckets for each doubling."""

from collections.abc import Iterable, Mapping
from math import ceil, log2

SparseHistogram = dict[str, int]
"""Counts by bucket number. The numbers are texts, because JSON has no other keys."""

BUCKET_COUNT = 60
"""The last bucket has everything above 2 ** 29 ms, some six days."""


def bucket_of(duration_ms: float) -> str:
    """Return the bucket of a duration. Bucket 0 ends at 1 ms, bucket n at 2 ** (n / 2) ms, inclusive."""
    if duration_ms <= 1:
        return "0"
    return str(min(ceil(2 * log2(duration_ms)), BUCKET_COUNT - 1))


def upper_bound_ms(bucket: int) -> float:
    return float(2 ** (bucket / 2))


def add(histogram: SparseHistogram, bucket: str, count: int = 1) -> None:
    histogram[bucket] = histogram.get(bucket, 0) + count


def merge(histograms: Iterable[Mapping[str, int]]) -> SparseHistogram:
    total: SparseHistogram = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            add(total, bucket, count)
    return total


def percentile_ms(histogram: Mapping[str, int], fraction: float) -> float | None:
    """Return the duration that this fraction of runs did not exceed, interpolated in its bucket; None without runs."""
    rank = fraction * sum(histogram.values())
    seen = 0
    for bucket, count in sorted((int(bucket), count) for bucket, count in histogram.items()):
        if count and seen + count >= rank:
            low = upper_bound_ms(bucket - 1) if bucket else 0.0
            return low + (upper_bound_ms(bucket) - low) * max(rank - seen, 0) / count
        seen += count
    return None
