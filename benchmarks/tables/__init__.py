"""Tables of the documentation, each a ``python -m`` command."""
