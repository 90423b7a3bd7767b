"""``glint evaluate``: scores of a model, or of masks, on labelled data."""
