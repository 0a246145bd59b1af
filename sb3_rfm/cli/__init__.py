"""The command ``sb3-rfm``."""
