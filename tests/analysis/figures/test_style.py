"""Which schedules are followed through the figures."""

from cardiff.analysis.figures.style import STYLES, choose_landmarks, choose_styles


def test_styles_are_kept_for_landmarks_and_never_shared():
    names = ["a", "linear", "b", "cosine", *"cdefgh"]
    styles = choose_styles(names)
    assert styles["linear"] == STYLES["linear"] and styles["cosine"] == STYLES["cosine"]
    assert len(styles) == len(STYLES) == len(set(styles.values()))
    assert list(styles) == ["a", "linear", "b", "cosine", "c", "d", "e"]


def test_at_most_eight_panels(schedules):
    assert len(choose_landmarks(schedules)) == 8
    assert choose_landmarks(schedules[:3]) == schedules[:3]
