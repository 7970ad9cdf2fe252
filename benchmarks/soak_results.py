"""Soak results: the figures, the table and the picture of what a soak has measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from benchmarks.drawing import Panel, Point, draw, thinned
from benchmarks.measuring import Figure, Report
from benchmarks.sampling import OUTBOX, Sample

_TENTHS = 10
_POINTS = 120
"""Of a curve of the picture."""
_LONG = 180.0
"""From so many seconds on, the picture counts minutes."""


@dataclass(frozen=True)
class Course:
    """The measurements of one way of mirroring. Times are seconds since the beginning."""

    name: str
    delays: list[Point]
    """The time of a change, and the milliseconds until it was visible."""
    samples: list[Sample]

    @classmethod
    def since(
        cls, began: float, name: str, delays: Iterable[Point], samples: Iterable[Sample]
    ) -> "Course":
        """Return a course of the measurements since `began`."""
        return cls(
            name,
            [(at - began, delay) for at, delay in delays if at >= began],
            [replace(one, at=one.at - began) for one in samples if one.at >= began],
        )

    def curve(self, quantity: Callable[[Sample], float]) -> list[Point]:
        """Return a quantity of the samples over time."""
        return [(sample.at, quantity(sample)) for sample in self.samples]

    def as_json(self) -> dict[str, Any]:
        """Return all values as plain JSON values."""
        samples = [sample.as_json() for sample in self.samples]
        return {"name": self.name, "delays": self.delays, "samples": samples}


def add_figures(report: Report, courses: Sequence[Course], lasted: float) -> None:
    """Add the figures of a time's first, second and last tenths, and their ratios.

    Memory and outbox begin with the second tenth, because the first burst and the first purge of
    history enlarge both once.
    """
    for course in courses:
        what = f"soak, {course.name}"
        delays = f"{what}: commit → visible"
        memory, outbox = f"{what}: memory", f"{what}: the outbox"
        megabytes = course.curve(lambda sample: sample.memory)
        outboxes = course.curve(lambda sample: sample.megabytes(outbox=True))
        connections = course.curve(lambda sample: sample.connections)
        for name, unit, points, tenths in (
            (delays, "ms", course.delays, (0, 9)),
            (memory, "MB", megabytes, (1, 9)),
            (outbox, "MB", outboxes, (1, 9)),
        ):
            for tenth in tenths:
                values = [y for x, y in points if int(x / lasted * _TENTHS) == tenth]
                if values:
                    report.add(f"{name}, {_NAMES[tenth]}", unit, *values)
        if connections:
            report.add(f"{what}: connections", "connections", *(y for _, y in connections))
        _add_ratio(report, delays, 0, "p50", at_most=1.3)
        _add_ratio(report, delays, 0, "p99", at_most=2, by=lambda figure: figure.p99)
        _add_ratio(report, memory, 1, "median", at_most=1.2)
        _add_ratio(report, outbox, 1, "largest", at_most=1.5, by=lambda one: max(one.values))


_NAMES = {0: "first tenth", 1: "second tenth", 9: "last tenth"}


def _add_ratio(
    report: Report,
    name: str,
    first: int,
    statistic: str,
    *,
    at_most: float,
    by: Callable[[Figure], float] = lambda figure: figure.median,
) -> None:
    """Add the ratio of the last tenth to an earlier one."""
    report.ratio(
        f"{name}, {statistic}, last tenth to {_NAMES[first].removesuffix(' tenth')}",
        f"{name}, {_NAMES[9]}",
        f"{name}, {_NAMES[first]}",
        at_most=at_most,
        by=by,
    )


def add_bloat(report: Report, name: str, before: Sample, after: Sample) -> None:
    """Add the size of all tables of ours, before and after each was rewritten."""
    what = f"soak, {name}: tables of ours at the end"
    for suffix, sample in (("", before), (", rewritten", after)):
        report.add(f"{what}{suffix}", "MB", sum(one.bytes for one in sample.tables.values()) / 1e6)


def table_of(courses: Sequence[Course], lasted: float) -> str:
    """Return a table of each table of ours that ever exceeded a tenth of a megabyte."""
    lines = [
        "",
        "| table | way | MB after a tenth of the time | MB at the end | most dead rows |",
        "| --- | --- | --- | --- | --- |",
    ]
    for course in courses:
        early = next((one for one in course.samples if one.at >= lasted / _TENTHS), None)
        if early is None:
            continue
        last = course.samples[-1].tables
        for name in sorted(last, key=lambda one: -last[one].bytes):
            sizes = [one.tables[name] for one in course.samples if name in one.tables]
            if max(size.bytes for size in sizes) < 1e5:  # noqa: PLR2004 - as it says
                continue
            first, end = early.tables[name].bytes / 1e6, last[name].bytes / 1e6
            dead = max(size.dead for size in sizes)
            lines.append(f"| {name} | {course.name} | {first:.2f} | {end:.2f} | {dead:,} |")
    return "\n".join([*lines, ""])


def picture_of(courses: Sequence[Course], lasted: float) -> str:
    """Return the curves of all courses as an SVG."""
    unit, scale = ("minutes", 60.0) if lasted >= _LONG else ("seconds", 1.0)

    def panel(
        title: str,
        points: Callable[[Course], list[Point]],
        by: Callable[[list[float]], float] = max,
    ) -> Panel:
        curves = []
        for course in courses:
            within = [(x / scale, y) for x, y in points(course) if x <= lasted]
            curves.append(thinned(within, lasted / scale / _POINTS, by))
        return Panel(title, curves)

    def of_samples(title: str, quantity: Callable[[Sample], float]) -> Panel:
        return panel(title, lambda course: course.curve(quantity))

    panels = [
        panel("Commit to visible, median (ms)", lambda course: course.delays, median),
        panel("Commit to visible, slowest (ms)", lambda course: course.delays),
        of_samples("Memory of the processes (MB)", lambda one: one.memory),
        of_samples("Connections, both sides", lambda one: one.connections),
        of_samples("Tables of ours, primary, without the outbox (MB)", _side("primary")),
        of_samples("Tables of ours, target (MB)", _side("target")),
        of_samples("The outbox with its indexes (MB)", lambda one: one.megabytes(outbox=True)),
        of_samples("Dead rows in tables of ours", lambda one: one.dead),
    ]
    title = f"Mixed traffic: {lasted / scale:.0f} {unit}"
    names = [course.name for course in courses]
    described = _described(courses)
    return draw(title, described, names, panels, end=lasted / scale, unit=unit)


def _side(side: str) -> Callable[[Sample], float]:
    def megabytes(sample: Sample) -> float:
        tables = sample.tables.items()
        return (
            sum(one.bytes for name, one in tables if name.startswith(side) and name != OUTBOX) / 1e6
        )

    return megabytes


def _described(courses: Sequence[Course]) -> str:
    """Say in a sentence for each course between which values its curves move."""
    sentences = []
    for course in courses:
        if not course.samples or not course.delays:
            continue
        first, last = course.samples[0], course.samples[-1]
        delay = median(delay for _, delay in course.delays)
        most = max(one.connections for one in course.samples)
        sentences.append(
            f"{course.name}: a change is visible after {delay:.1f} ms (median);"
            f" memory is {first.memory:.0f} MB at first and {last.memory:.0f} MB at the end;"
            f" there are at most {most} connections."
        )
    return " ".join(sentences) or "Nothing was measured."
