"""Follow targets through a stream; give it a camera, a folder or a list of arrays instead."""

import glint

source = "synthetic://?size=160x128&frames=6&clusters=2&singles=2&seed=4"
for result in glint.stream(source, track=True):
    brightest = max(result.targets.radiance, default=0.0)
    tracks = sorted(set(result.track.tolist()) - {-1})
    print(f"frame {result.frame.index}: {len(result.targets)} targets, up to {brightest:.0f} DN, tracks {tracks}")
