"""Names from data in Markdown, HTML and figures."""

import html

import markdown
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from PIL import ImageFont

from cardiff.markup import FONT, code, drawable, escape, fenced, figure_text

AWKWARD = ("a_b*c`d", "[x](y)", "<b>&amp;", "1 | 2", "~~no~~", "AM General Hummer SUV 2000", "Ba$$in + $x_2$", "é, 日")


@pytest.mark.parametrize("text", AWKWARD)
def test_escaped_text_is_what_it_was(text):
    shown = markdown.markdown(escape(text)).removeprefix("<p>").removesuffix("</p>")
    assert html.unescape(shown) == text


def test_escaped_text_does_not_divide_a_table_or_strike_through():
    table = f"| {escape('1 | 2')} | b |\n|---|---|\n| c | d |"
    assert markdown.markdown(table, extensions=["tables"]).count("<th>") == 2
    assert "~" not in escape("~~no~~")  # of Markdown's dialects only some strike through


def test_code_cannot_be_ended_by_its_text():
    assert code("a` b\n") == "`a b`"
    assert fenced("text", "````")[0] == "`````text"
    page = markdown.markdown("\n".join(fenced("text", "```\n<i>x</i>\n````")), extensions=["fenced_code"])
    assert page.count("<code") == 1 and "&lt;i&gt;x&lt;/i&gt;" in page


def test_what_the_font_lacks_is_shown_by_its_code_point():
    assert drawable("éüñš Ωд  x") == "éüñš Ωд x"
    assert drawable("日 car") == "[U+65E5] car"
    font = ImageFont.truetype(str(FONT), 14)
    nothing = bytes(font.getmask("\U0010ffff"))
    assert not [c for c in drawable("".join(map(chr, range(33, 0x3100)))) if bytes(font.getmask(c)) == nothing]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_figure_draws_the_text_and_no_mathematics(text, monkeypatch):
    monkeypatch.setattr(MathTextParser, "parse", None)  # whoever calls it fails
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0, 0, figure_text(text))
    figure.canvas.draw()
    with pytest.raises(TypeError):
        figure.text(0, 0, "$x$")
        figure.canvas.draw()
