import os

# Two OpenMP threads that wait by spinning collapse to a tenth of their speed beside any other busy process. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
