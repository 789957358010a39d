"""The tables hold what they are given, as text."""

from dataclasses import replace

from cardiff.analysis.analyze import load_images
from cardiff.analysis.measures import measure_data, measure_schedule
from cardiff.analysis.ranking import Row
from cardiff.analysis.tables import describe, markdown_tables
from cardiff.config.schedules_by_name import PUBLISHED, alphas_cumprod_of
from cardiff.markup import escape
from tests.analysis.test_analyze import DIGITS, SMALL


def test_names_of_schedules_are_no_markup():
    """In tables, where a bar would be a column, and in words."""
    data = measure_data(*load_images(DIGITS, 50, SMALL.seed))
    name = "my|file*_x_.py:<b>f"
    measures = measure_schedule(name, alphas_cumprod_of(PUBLISHED["cosine"]), data)
    tables = markdown_tables([Row(measures, "ours", 0.1)], data, SMALL)
    rows = [line for line in tables.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 3 and all(escape(name) in row and name not in row for row in rows)
    assert [row.count("|") for row in rows] == [12, 11, 8]
    caption = describe(SMALL, replace(DIGITS, split="<b>", data_files=["a*b*.parquet"]), data)
    assert "<b>" not in caption and r"a\*b\*.parquet" in caption
