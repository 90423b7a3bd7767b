"""One guarded reader for each format of images: what a file claims is held against the bytes that it has."""
