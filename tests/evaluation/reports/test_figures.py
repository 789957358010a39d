"""Figures of evaluation reports."""

import numpy as np

from cardiff.evaluation.reports.evaluation import rows_by_class, shown_classes


def test_a_grid_has_a_row_a_class_and_white_where_there_are_no_images():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    grid = rows_by_class(images, np.array([4, 1, 4, 4, 1]), [4, 1], columns=3)
    assert grid.shape == (6, 2, 2, 1) and grid[:, 0, 0, 0].tolist() == [0, 2, 3, 1, 4, 255]
    assert shown_classes(np.repeat(np.arange(0, 80, 2), 3)) == [0, 8, 18, 26, 34, 44, 52, 60, 70, 78]
