"""Names that come from data, where they could be taken for something else: in Markdown, in HTML and in figures."""

import html
import re
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
"""The font of every picture and figure, which comes with matplotlib: Latin with all its accents, Greek, Cyrillic."""


def escape(text: str) -> str:
    """Text that means itself in Markdown, in a table too, and in HTML."""
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*_{}\[\]()#+!])", r"\\\1", text)
    return text.replace("|", "&#124;").replace("~", "&#126;").replace("$", "&#36;")  # $ is mathematics to some


def code(text: str) -> str:
    """Text in the type of code, which it cannot end."""
    return f"`{' '.join(text.replace('`', '').split())}`"


def fenced(language: str, text: str) -> list[str]:
    """A block of code that the text cannot end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", text, fence]


def drawable(text: str) -> str:
    """Text for a picture: a character that the font lacks is shown by its code point, as in [U+65E5]."""
    known = _characters()
    return "".join(c if ord(c) in known else f"[U+{ord(c):04X}]" for c in " ".join(text.split()))


def figure_text(text: str) -> str:
    """Text for a matplotlib figure, which takes what stands between two dollar signs for mathematics."""
    return drawable(text).replace("$", r"\$")


def legend_text(text: str) -> str:
    """The same for a legend, which leaves out what begins with an underscore."""
    text = figure_text(text)
    return f" {text}" if text.startswith("_") else text


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())
