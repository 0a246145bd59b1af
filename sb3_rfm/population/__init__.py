"""Populations: several models of one kind, trained in one process with one update for all."""
