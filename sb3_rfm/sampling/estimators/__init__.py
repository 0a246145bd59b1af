"""Estimators of the posterior of noise and data given their mix."""
