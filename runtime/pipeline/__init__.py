"""One frame all the way: correct, detect, cut, unmix, refine, track."""
