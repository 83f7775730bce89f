"""How processes that work side by side share the cores. Without PyTorch, which not all of them need."""

WORKERS = "WORKERS"  # environment variable that stages/common/parallel.py sets in worker processes: how many they are
