"""The parts of benchmarks/reliability.py: each does something bad to a command or its files, and judges the rest."""
