"""The stages. One thread for numpy's sums: their order, and with it a word that a listener hears, must not depend on the cores."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported, and every stage begins with this file
