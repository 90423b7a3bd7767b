"""Machine code made ahead of time: a library beside this package, loaded without Numba."""
