"""The command line of ``glint archive``."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from glint.cli import positive_float, positive_int, print_json
from glint.errors import EXIT_CHECK_FAILED, EXIT_INTERRUPTED, EXIT_OK
from glint.libraries import missing
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.commands.run_options import ARCHIVE_OPTIONS, add_run_arguments

_VERIFIED_PARTS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint archive``."""
    parser.add_argument("root", help="folder or URL (s3://, gs://, hdfs://) below which recordings lie")
    parser.add_argument("out", help="folder or URL of the data sets; a second start goes on where the first ended")
    group = parser.add_argument_group("archive")
    group.add_argument(
        "--address", default="local",
        help="what runs it: local, this machine (default); auto, the Ray cluster that it belongs to; or its address",
    )  # fmt: skip
    group.add_argument("--workers", type=positive_int, metavar="N", help="processes (default: as many as fit)")
    group.add_argument(
        "--gpus-per-worker", type=positive_float, metavar="F",
        help="GPUs of each, e.g. 0.25 (default: none); of more --workers than fit, the others work without",
    )  # fmt: skip
    group.add_argument(
        "--chunk", type=positive_int, default=1000, metavar="N", help="frames of one part (default: %(default)s)"
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be done")
    group.add_argument(
        "--verify", nargs="?", type=positive_int, const=_VERIFIED_PARTS, metavar="N",
        help=f"make N finished parts again (default: {_VERIFIED_PARTS}) and compare; make nothing new",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print the manifest as JSON on standard output")
    add_run_arguments(parser, ARCHIVE_OPTIONS)
    add_engine_arguments(parser, threads="of each worker (default: 1)")
    add_refine_arguments(parser)


def require_libraries() -> None:
    """See that Ray and pyarrow are there, without importing them.

    Raises:
        MissingDependencyError: if one is not.
    """
    if not all(map(importlib.util.find_spec, ("ray", "pyarrow"))):
        raise missing("ray", "glint archive needs Ray and pyarrow, which are not installed")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint archive``."""
    require_libraries()
    from glint.runtime.commands.archive import archive, summary_text

    given = {**vars(arguments), "engine": engine_of(arguments), "refine": not arguments.no_refine}
    own = ("address", "workers", "gpus_per_worker", "chunk", "dry_run", "verify")
    options = {name: given[name] for name in (*own, *ARCHIVE_OPTIONS)}
    manifest = archive(arguments.root, arguments.out, **options)
    print(summary_text(manifest), file=sys.stderr)
    if arguments.json:
        print_json(manifest)
    if manifest.get("interrupted"):
        return EXIT_INTERRUPTED
    return EXIT_CHECK_FAILED if manifest.get("failures") else EXIT_OK
