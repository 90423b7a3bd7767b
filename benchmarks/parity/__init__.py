"""``glint parity``: whether an engine still is the model that it was made from."""
