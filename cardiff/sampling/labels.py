"""Labels as text, as `--labels` gives them.

| text | label |
|---|---|
| `three` | the class of this name; an exact match takes precedence over everything below |
| `3` | the class of this index, written without leading zeros |
| `"a, b"` | the class of the quoted name, which may contain any characters; a double quote in it is doubled |
| `index:3` | the class of this index, whatever the names of the classes are |
| `0.5*three+0.5*"a, b"` | a mixture of classes |
| `three,7` | several, taken in turn |
| `@labels.txt` | one of them on each line of a file |
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cardiff.errors import UserError, user_errors
from cardiff.pipelines import ArgumentError, ClassConditionalPipeline
from cardiff.pipelines.pipeline_class_conditional import Classifier

ClassOrMixture = int | dict[int, float]
"""A label that has been read: the index of a class, or the weights of several."""
_INDEX = re.compile(r"0|[1-9][0-9]*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def read_labels(
    text: str, pipeline: ClassConditionalPipeline, classifier: Classifier | None = None
) -> list[ClassOrMixture]:
    """The classes, or mixtures {class: weight}, that a text names.

    Args:
        text: As above.
        pipeline: The model, whose classes they are.
        classifier: Its classes are used if the model has none.

    Raises:
        UserError: A label cannot be read, is not a class, or is ambiguous.
    """
    reader = _Reader(pipeline, classifier)
    if reader.is_name(text):
        return [reader.single(text)]
    if text.startswith("@"):
        return _read_file(Path(text[1:]), reader)
    return [reader.label(part) for part in _split(text, ",")]


def label_name(label: ClassOrMixture, names: dict[int, str]) -> str:
    """The name of a label: that of the class, or the weights and names of a mixture."""
    if isinstance(label, dict):
        return "+".join(f"{weight:g}*{names[part]}" for part, weight in label.items())
    return names[label]


def _read_file(path: Path, reader: "_Reader") -> list[ClassOrMixture]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--labels @{path} cannot be read ({error}): name a text file, or put a class name in double quotes."
        ) from error
    labels: list[ClassOrMixture] = []
    for number, line in enumerate(lines, 1):
        try:
            labels += [reader.label(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    if not labels:
        raise UserError(f"{path} contains no labels: write one on each line.")
    return labels


class _Reader:
    """Reads one label at a time."""

    def __init__(self, pipeline: ClassConditionalPipeline, classifier: Classifier | None):
        self.pipeline, self.classifier = pipeline, classifier
        self.names: Mapping[int, str] = pipeline.class_names(classifier)

    def is_name(self, text: str) -> bool:
        """Whether this is exactly the name of a class."""
        return text in self.names.values()

    def label(self, text: str) -> ClassOrMixture:
        """A class, or a mixture of classes."""
        text = text if self.is_name(text) else text.strip()
        if self.is_name(text) or len(_split(text, "*")) == 1:
            return self.single(text)
        mixture: dict[int, float] = {}
        for part in _split(text, "+"):
            weight, *name = _split(part, "*", most=1)
            try:
                share = float(weight)
            except ValueError:
                name = []
            if not name:
                raise UserError(
                    f"The label {text!r} is not a mixture such as 0.5*three+0.5*eight; put a name that contains * or "
                    "+ in double quotes."
                )
            label = self.single(name[0].strip())
            mixture[label] = mixture.get(label, 0.0) + share
        with user_errors(ArgumentError):  # weights that do not add up
            self.pipeline.label_weights([mixture], self.classifier)
        return mixture

    def single(self, text: str) -> int:
        """A class by name or index."""
        found: int | str
        quoted = _QUOTED.fullmatch(text)
        if text.startswith("index:"):
            if not _INDEX.fullmatch(text.removeprefix("index:")):
                raise UserError(f"The label {text!r} is not an index such as index:3.")
            found = int(text.removeprefix("index:"))
        elif self.is_name(text):
            if _INDEX.fullmatch(text) and self.names.get(int(text), text) != text:
                raise UserError(
                    f"The label {text!r} is the name of one class and the index of another, "
                    f'{self.names[int(text)]!r}: write "{text}" in double quotes for the name, or index:{text}.'
                )
            found = text
        elif quoted:
            found = quoted[1].replace('""', '"')
        else:
            found = int(text) if _INDEX.fullmatch(text) else text
        with user_errors(ArgumentError):
            return self.pipeline.label_ids(found, self.classifier)[0]


def _split(text: str, mark: str, most: int = 0) -> list[str]:
    """Split text at the marks outside of double quotes, at most `most` times (0: any number).

    Raises:
        UserError: A quote is not closed.
    """
    if text.count('"') % 2:
        raise UserError(f"The label {text!r} has an unclosed double quote; double those inside a name.")
    return re.split(rf'{re.escape(mark)}(?=(?:[^"]*"[^"]*")*[^"]*$)', text, maxsplit=most)
