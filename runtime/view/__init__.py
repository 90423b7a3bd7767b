"""A run seen from outside: the live view, ``/metrics``, ``/healthz``."""
