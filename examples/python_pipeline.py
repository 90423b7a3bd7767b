"""One frame of a program's own: detect, unmix, refine; print the targets and draw them."""

import numpy as np

import glint

rng = np.random.default_rng(1)
frame = rng.normal(2000, 3, (128, 160)).round().astype(np.uint16)  # as a camera of 14 bits gives it
frame[60, 80:83] += np.array([90, 160, 60], np.uint16)

with glint.Pipeline.open() as pipeline:
    result = pipeline(frame)
for target in result.to_dict()["targets"]:
    print(f"x {target['x']:.2f}  y {target['y']:.2f}  {target['radiance']:.0f} DN  {target['flags']}")
result.plot("targets.png", overwrite=True)
