import os

# Two OpenMP threads that wait by spinning collapse to a tenth of their speed beside any other busy process. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"


def __getattr__(name):
    "The two functions a newcomer needs; the modules behind them are loaded at the first use."
    if name == "animate": from .photo.animation import animate as found
    elif name == "load_generator": from .model.generator import load_generator as found
    else: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__(): return [*globals(), "animate", "load_generator"]
