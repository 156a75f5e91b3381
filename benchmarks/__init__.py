"""Measurements of the device beside what else there is: `python -m benchmarks --help`."""
