"""``glint run``, ``detect``, ``unmix``, ``psf``, ``build``, ``archive``, ``review``, ``card`` and ``doctor``."""
