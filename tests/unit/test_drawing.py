"""The picture of a soak: small panels of curves, as an SVG."""

import re
from html import unescape
from pathlib import Path
from statistics import median

import pytest

from benchmarks.drawing import Panel, draw, thinned, ticks
from benchmarks.sampling import OUTBOX, Sample, Table
from benchmarks.soak_results import Course, picture_of, table_of

HOME = Path(__file__).parent.parent.parent


def drawn() -> str:
    """Return a drawing of two panels; the second one has no points."""
    panels = [Panel("Memory & more (MB)", [[(0, 50), (30, 100)], [(0, 0)]]), Panel("Delay", [[]])]
    return draw(
        "A soak", "Memory grows from 50 to 100.", ["a", "b"], panels, end=30, unit="minutes"
    )


def test_a_curve_goes_from_the_left_to_the_right_and_its_highest_value_is_at_the_top() -> None:
    """The panel is 980 / 2 wide; its curves are between 62 and 476, and between 34 and 144."""
    curves = re.findall(r'points="(.*?)"', drawn())
    assert curves == ["62.0,89.0 476.0,34.0", "62.0,144.0", ""]


def test_a_drawing_names_its_curves_its_quantities_and_its_units() -> None:
    """Texts are escaped; each axis has round numbers."""
    texts = [unescape(one) for one in re.findall(r"<text [^>]*>(.*?)</text>", drawn())]
    for text in ("A soak", "a", "b", "Memory & more (MB)", "Delay", "75", "100", "30 minutes"):
        assert text in texts


@pytest.mark.parametrize(
    "drawing",
    [drawn(), (HOME / "benchmarks" / "soak.svg").read_text(encoding="utf-8")],
    ids=["drawn", "soak.svg"],
)
def test_a_drawing_has_a_description_and_colours_for_both_schemes(drawing: str) -> None:
    """A reader with a screen reader, or with a dark page, gets the same."""
    assert re.search(r"<title id=\"title\">.+</title>", drawing)
    assert re.search(r"<desc id=\"desc\">.{20,}</desc>", drawing)
    light, _, dark = drawing.partition("@media (prefers-color-scheme: dark)")
    coloured = re.findall(r"^    (\S+) \{.*#", light, re.MULTILINE)
    assert len(coloured) == 6
    assert all(f"      {name} {{" in dark for name in coloured)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (0, [0, 0.25]),
        (1, [0, 0.25, 0.5, 0.75, 1]),
        (7.7, [0, 2, 4, 6, 8]),
        (218, [0, 100, 200, 300]),
        (0.003, [0, 0.001, 0.002, 0.003]),
    ],
)
def test_an_axis_ends_at_a_round_number_that_is_not_exceeded(
    highest: float, expected: list[float]
) -> None:
    """It has at most five numbers, zero included."""
    assert ticks(highest) == expected


def test_many_points_become_one_for_each_interval() -> None:
    """An interval without points has none in the curve."""
    points = [(0.1, 1.0), (0.9, 3.0), (1.0, 5.0), (3.5, 7.0)]
    assert thinned(points, 1, max) == [(0.5, 3), (1.5, 5), (3.5, 7)]
    assert thinned(points, 1, median) == [(0.5, 2), (1.5, 5), (3.5, 7)]


def test_a_soak_that_has_measured_nothing_is_drawn_too() -> None:
    """It was cut off in its first second."""
    courses = [Course(name, [], []) for name in ("mirror run", "Celery")]
    assert picture_of(courses, 0.5).count('points=""') == 16
    assert "mirror run" not in table_of(courses, 0.5)


def test_the_table_has_each_table_of_some_size_with_its_growth() -> None:
    """Measurements from before the beginning do not count."""
    sizes = [(90.0, 9.0), (100.0, 1.0), (110.0, 2.0), (200.0, 3.0)]
    samples = [
        Sample(
            at, 50, 4, {OUTBOX: Table(int(mb * 1e6), int(mb)), "target: mirror.state": Table(1, 0)}
        )
        for at, mb in sizes
    ]
    course = Course.since(100, "mirror run", [(95, 1.0), (105, 2.0)], samples)
    assert course.delays == [(5, 2.0)]
    assert f"| {OUTBOX} | mirror run | 2.00 | 3.00 | 3 |" in table_of([course], 100)
    assert "mirror.state" not in table_of([course], 100)
