"""Checkpoints from which training goes on as if it had never stopped."""
