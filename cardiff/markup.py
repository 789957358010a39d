"""Escapes names that come from data, for Markdown, HTML and figures."""

import html
import re
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
"""The font of all pictures and figures, which ships with matplotlib: accented Latin, Greek and Cyrillic."""


def escape(text: str) -> str:
    """Text escaped for Markdown, including tables, and for HTML."""
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*_{}\[\]()#+!])", r"\\\1", text)
    return text.replace("|", "&#124;").replace("~", "&#126;").replace("$", "&#36;")  # $ can mean mathematics


def code(text: str) -> str:
    """Text as inline code, without backticks that could end it."""
    return f"`{' '.join(text.replace('`', '').split())}`"


def fenced(language: str, text: str) -> list[str]:
    """A code block with a fence longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", text, fence]


def drawable(text: str) -> str:
    """Text for a picture: characters missing from the font are shown by their code points, as in [U+65E5]."""
    known = _characters()
    return "".join(c if ord(c) in known else f"[U+{ord(c):04X}]" for c in " ".join(text.split()))


def figure_text(text: str) -> str:
    """Text for a matplotlib figure, which would read text between dollar signs as mathematics."""
    return drawable(text).replace("$", r"\$")


def legend_text(text: str) -> str:
    """Text for a matplotlib legend, which would omit a label that begins with an underscore."""
    text = figure_text(text)
    return f" {text}" if text.startswith("_") else text


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())
