"""The figures of a comparison of noise schedules."""
