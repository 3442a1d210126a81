"""Charts: their legends do not lie on curves."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from diffrl.report.charts import FAINT, INK, PAPER, Chart, Line, draw, save


def chart(*labels):
    lines = [Line(label, [0.0, 1.0], [0.0, float(n)]) for n, label in enumerate(labels)]
    return Chart("name", "title", "samples", lines)


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("label", ["short", "_hidden", "a" * 80, "a name of usual letters " * 4])
def test_a_legend_lies_below_the_axes_and_within_the_figure(count, label):
    figure = draw(chart(*(f"{label} {n}" for n in range(count))), INK, FAINT)
    FigureCanvasAgg(figure).draw()
    (axes,), (legend,) = figure.axes, figure.legends
    box, plot = legend.get_window_extent(), axes.get_tightbbox()
    assert box.y1 <= plot.y0 + 1
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert plot.height > 0.75 * 2.9 * figure.dpi  # a longer legend takes nothing from the plot
    names = [text.get_text() for text in legend.get_texts()]
    assert [name[-2:] for name in names] == [f" {n}" for n in range(count)]  # all told apart


def test_an_element_of_a_page_has_no_paper(tmp_path):
    (element,) = save([chart("a", "b")], tmp_path)
    file = (tmp_path / "name.svg").read_text("utf-8")
    assert file.count(PAPER) == 2  # of the figure and of its axes
    assert "#fff" not in element
    assert "var(--ink)" in element and INK not in element


def test_one_curve_needs_no_legend():
    assert not draw(chart("alone"), INK, FAINT).legends
