"""The stages. What must be known before numpy and CUDA start: the order of their sums, and with it a word that a listener hears,
must not depend on the machine's cores or on chance."""

import gc
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported, and every stage begins with this file
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses to compute deterministically
# Threads that wait for each other sleep: beside other work, training would take eight times as long while they spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
gc.set_threshold(50_000, 20, 20)  # looking for cycles among the million objects of PyTorch and transformers is an eighth of the time that loading them takes
