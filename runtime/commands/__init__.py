"""``glint run``, ``detect``, ``unmix``, ``psf``, ``build`` and ``doctor``."""
