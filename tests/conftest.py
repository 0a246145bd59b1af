"""Shared settings: one thread (two cores are shared with other workers), no rendering."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "disable")

import torch as th

th.set_num_threads(1)
