"""What the tests of ``glint build`` share: a GPU, frame sizes, and what the cache holds."""

from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.build import BuildOptions
from glint.runtime.engines.tensorrt.cache import cache_folder
from glint.types import FrameSize

GPU = cuda.GpuInfo(
    name="Orin", sm="8.7", total=8 << 30, free=4 << 30, integrated=True, cuda="12.6", driver="540.4.0"
)  # fmt: skip
SIZES = BuildOptions(sizes=(FrameSize(96, 64), FrameSize(32, 32)))


def contents():
    """Every file of the cache."""
    return {p: p.read_bytes() for p in cache_folder().rglob("*") if p.is_file() and p.name != ".lock"}


def plans():
    return sorted(cache_folder().glob("*.plan"))
