"""``glint inspect``: what a model, engine or network is."""
