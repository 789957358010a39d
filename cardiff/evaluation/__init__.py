"""Measuring samples: distances, classes, memorisation, their uncertainty, and the comparison of runs."""
