from glint.errors import GlintError as GlintError
from glint.progress import speaking as speaking
from glint.runtime.commands.run import run as run
from glint.runtime.pipeline.masks import detect as detect
from glint.runtime.pipeline.pipeline import Pipeline as Pipeline
from glint.runtime.pipeline.pipeline import Result as Result
from glint.runtime.pipeline.settings import Settings as Settings
from glint.runtime.stream.results import stream as stream
from glint.runtime.unmixing.unmix import unmix as unmix
from glint.types import Blobs as Blobs
from glint.types import Frame as Frame
from glint.types import TargetFlag as TargetFlag
from glint.types import Targets as Targets

API: dict[str, str]
__version__: str
