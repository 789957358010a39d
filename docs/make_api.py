"""Writes docs/api.md from the docstrings of what `import cardiff` offers.

python docs/make_api.py
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import cardiff

FILE = Path(__file__).parent / "api.md"
SECTIONS = ("Args", "Returns", "Raises", "Yields")


def page() -> str:
    """The whole page, in Markdown."""
    summary, _, examples = cardiff.__doc__.partition("\n\n")
    parts = ["# The public API", summary, _prose(examples)]
    parts += [_entry(name, getattr(cardiff, name)) for name in cardiff.API]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    """Paragraphs, with the examples among them as code."""
    blocks = re.split(r"\n\n", text.strip())
    return "\n\n".join(f"```python\n{block}\n```" if block.startswith(">>>") else block for block in blocks)


def _entry(name: str, thing: Callable) -> str:
    module = inspect.getmodule(thing)
    assert module is not None
    file = module.__name__.replace(".", "/") + ".py"
    doc = inspect.cleandoc(thing.__doc__ or "")
    for section in SECTIONS:
        doc = re.sub(rf"^{section}:$", rf"**{section}**\n", doc, flags=re.M)
    doc = re.sub(r"^    (\w[^:\n]*): ", r"- `\1`: ", doc, flags=re.M)
    return f"## {name}\n\n```python\n{name}({_arguments(thing)})\n```\n\n{doc}\n\nIn [{file}](../{file})."


def _arguments(thing: Callable) -> str:
    """As in the source, a line each if they are many."""
    if isinstance(thing, type) and issubclass(thing, Exception):
        return "message"
    shown, keyword_only = [], False
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            shown.append("*")
            keyword_only = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text = f"{stars}{name}"
        if parameter.annotation is not parameter.empty:
            kind = parameter.annotation
            kind = kind if isinstance(kind, str) else inspect.formatannotation(kind)
            text += ": " + re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", kind)
        if parameter.default is not parameter.empty:
            plain = isinstance(parameter.default, str | int | float | None | tuple)
            text += f" = {parameter.default!r}" if plain else " = …"
        shown.append(text)
    whole = ", ".join(shown)
    return whole if len(whole) < 90 else "\n    " + ",\n    ".join(shown) + ",\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
