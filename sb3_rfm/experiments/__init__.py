"""Training runs with everything on the disk, one or many of them, and the RL Zoo."""
