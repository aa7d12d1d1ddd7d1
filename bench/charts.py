"""The charts of docs/benchmarks.md and the README."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

OURS = "#1f6f5c"
THEIRS = "#b9c4c9"
LINES = ((OURS, "-"), ("#c2703d", "--"), ("#5b6abf", ":"))
WIDTH_INCHES = 8.0


def draw_rates(path: Path, per_second: Mapping[str, float], *, ours: str, title: str, label: str) -> None:
    """A bar chart, the fastest on top."""
    ordered = sorted(per_second.items(), key=lambda bar: bar[1])
    names, rates = [name for name, _ in ordered], [rate for _, rate in ordered]
    figure = Figure(figsize=(WIDTH_INCHES, 0.5 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, rates, color=[OURS if name == ours else THEIRS for name in names])
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.margins(x=0.1)
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    _save(figure, path)


def draw_memory(path: Path, series: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> None:
    """A line chart of resident memory, from zero, over the time of each stream."""
    figure = Figure(figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, samples), (color, style) in zip(series.items(), LINES, strict=True):
        axes.plot([second for second, _ in samples], [mib for _, mib in samples], style, label=name, color=color)
    axes.set_ylim(bottom=0, top=1.3 * max(mib for samples in series.values() for _, mib in samples))
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left")
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident MiB")
    axes.legend(frameon=False, loc="upper right")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
