"""HTML pages and SVG plots of the benchmarks."""
