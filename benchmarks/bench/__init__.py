"""``glint bench``: how fast, how accurate, how near to the limit of the machine."""
