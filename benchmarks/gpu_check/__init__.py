"""``python -m glint.benchmarks.gpu_check``: all that this machine can prove about the way to its GPU, in one report."""
