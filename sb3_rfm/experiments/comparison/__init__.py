"""Algorithms, environments and seeds compared: ``sb3-rfm compare`` and its ``report``."""
