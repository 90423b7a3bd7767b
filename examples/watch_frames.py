"""Follow a stream in Python: print what each frame holds. Replace the source by a folder of your own."""

import glint


def show(result: glint.Result) -> None:
    """One line per frame."""
    brightest = max(result.targets.radiance, default=0.0)
    print(f"frame {result.frame.index}: {len(result.targets)} targets, the brightest {brightest:.0f} DN")


manifest = glint.run("synthetic://?size=160x128&frames=5&clusters=2&singles=2&seed=4", on_result=show)
print(f"{manifest['truth']['found']} of {manifest['truth']['targets']} targets found")
