"""Detectors: numbers in, verdicts out. No I/O, no clock, no threads, no logging of values."""
