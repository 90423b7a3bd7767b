"""The same with Ray: on one to three workers that are killed, with a driver that is killed or stopped, on a GPU.

Ray gives its workers the lowest priority; on a machine that is busy with other things these tests take minutes.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="archives on several processes need Ray: pip install '.[archive]'")
pytest.importorskip("pyarrow", reason="archives need pyarrow")
av = pytest.importorskip("av", reason="video needs PyAV")

from glint.errors import EngineError, InputError  # noqa: E402
from glint.images import write_image  # noqa: E402
from glint.runtime.archive import on_ray  # noqa: E402
from glint.runtime.archive.job import Job  # noqa: E402
from glint.runtime.archive.on_ray import started  # noqa: E402
from glint.runtime.archive.settings import ArchiveSettings  # noqa: E402
from glint.runtime.archive.storage import Storage  # noqa: E402
from glint.runtime.pipeline.settings import Settings  # noqa: E402
from glint.runtime.sources.recording_format import SUFFIX, RecordingFile, encode_frame  # noqa: E402
from glint.types import Frame  # noqa: E402
from tests.helpers.archive_executor import Here  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of itself
_SETTINGS = ArchiveSettings(Settings(psf=0.5, threads=1), track=True, frames=4)
_OPTIONS = ("--psf", "0.5", "--track", "--chunk", "4")
_PATIENCE_S = 600


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two chunks, a recording of one and a video of two."""
    folder = tmp_path_factory.mktemp("root")
    recorded = RecordingFile(folder / f"recorded{SUFFIX}")
    with av.open(str(folder / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "gray16le", {"g": "4"}
        for index in range(8):
            data = picture(index)
            write_image(folder / "cam" / f"{index}.png", data)
            recorded.append(encode_frame(Frame(index, 10**9 + index * 40_000_000, data, name=f"f{index}")))
            shown = av.VideoFrame.from_ndarray(data, format="gray16le")
            shown.pts = index
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    recorded.close()
    return folder


def picture(index: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """A target that moves."""
    y, x = np.mgrid[:48, :64]
    image = np.random.default_rng(index).normal(1000, 4, (48, 64))
    image += 500 * np.exp(-((x - 12 - 0.7 * index) ** 2 + (y - 20.3) ** 2) / 0.5)
    return image.astype(np.uint16)


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All parts, made in one process."""
    out = tmp_path_factory.mktemp("expected")
    assert Job(Storage(root), Storage(out), _SETTINGS, Here()).run()["complete"]
    return parts(out)


def parts(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def command(root: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    words = ["archive", str(root), str(out), *_OPTIONS, "--workers", str(workers), "--json"]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "glint", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def until(ready: Any) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while not ready():
        assert time.monotonic() < ends
        time.sleep(0.05)


class Work:
    """Doubles numbers; 3 kills its worker at the first attempt, 5 at each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> tuple[int, int]:
        print("something that a library says")
        marker = self.folder / str(number)
        if number == 5 or (number == 3 and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number, 2 * number


class NeverBegins:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("there is no model")

    def __call__(self, number: int) -> int:
        return number


def test_work_survives_its_workers_and_ray_keeps_to_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with started("local", workers=2) as executor:
        assert listening() <= {"127.0.0.1", "::1"}
        found = sorted(executor.map(functools.partial(Work, tmp_path), range(8)))
        assert listening() <= {"127.0.0.1", "::1"}  # the workers too
        with pytest.raises(EngineError, match=r"a worker cannot begin, on .*: there is no model"):
            list(executor.map(NeverBegins, range(2)))
    assert [(n, d) for n, d in found if n != 5] == [(n, 2 * n) for n in range(8) if n != 5]
    assert 5 not in dict(found)
    assert capfd.readouterr().out == ""


def listening() -> set[str]:
    """Addresses at which this process and all that it started listen."""
    mine = {os.getpid()}
    for _ in range(6):
        mine |= {p for p, parent in _parents().items() if parent in mine}
    inodes = {_inode(link) for pid in mine for link in _links(Path(f"/proc/{pid}/fd"))}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(_address(words[1].split(":")[0]))
    assert found, "nothing listens: is it looked for in the right place?"
    return found


def _parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def _links(folder: Path) -> list[str]:
    try:
        return [str(p.readlink()) for p in folder.iterdir()]
    except OSError:
        return []


def _inode(link: str) -> str:
    return link.removeprefix("socket:[").removesuffix("]") if link.startswith("socket:[") else ""


def _address(text: str) -> str:
    numbers = bytes.fromhex(text)
    words = [numbers[i : i + 4][::-1] for i in range(0, len(numbers), 4)]
    if len(words) == 4 and words[:2] == [bytes(4)] * 2 and words[2] == b"\0\0\xff\xff":
        words = words[3:]  # IPv4 in IPv6
    if len(words) == 1:
        return ".".join(map(str, words[0]))
    return "::1" if b"".join(words) == bytes(15) + b"\1" else b"".join(words).hex()


def test_two_workers_of_which_one_is_killed_make_what_one_process_makes(
    root: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = command(root, tmp_path / "out", 2)
    until(lambda: parts(tmp_path / "out") or process.poll() is not None)
    for worker in workers_of(process.pid)[:1]:
        os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, err.decode()
    manifest = json.loads(out)  # nothing of Ray is in it
    assert (manifest["done"], manifest["failures"], manifest["workers"]) == (5, 0, 2)
    assert parts(tmp_path / "out") == expected


def workers_of(pid: int) -> list[int]:
    """Actors of Ray Data below a process."""
    mine = {pid}
    for _ in range(6):
        mine |= {p for p, parent in _parents().items() if parent in mine}
    names = {p: Path(f"/proc/{p}/cmdline").read_bytes() for p in mine if Path(f"/proc/{p}").exists()}
    return [p for p, name in names.items() if name.startswith(b"ray::MapWorker")]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999999"])
def test_a_cluster_that_is_not_there_is_said_so_at_once(address: str) -> None:
    with pytest.raises(InputError, match=f"Ray at {address}: "), started(address):
        pass


class Shown:
    """Tells which GPUs its process sees, when two processes have begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> str:
        (self.folder / str(os.getpid())).touch()
        until(lambda: len(list(self.folder.iterdir())) == 2)
        return os.environ["CUDA_VISIBLE_DEVICES"]


def test_workers_with_and_without_a_gpu_share_a_job(
    root: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    begun = tmp_path / "begun"
    begun.mkdir()
    with started("local", workers=2, gpus_per_worker=1, gpus=1) as executor:  # a GPU that only Ray believes in
        assert (executor.workers, executor.on_gpus) == (2, 1)
        assert set(executor.map(functools.partial(Shown, begun), range(2))) == {"0", ""}
        assert Job(Storage(root), Storage(tmp_path / "out"), _SETTINGS, executor).run()["complete"]
    assert parts(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        ({}, (8, 0)),
        ({"threads": 3}, (2, 0)),
        ({"gpus_per_worker": 0.3}, (8, 6)),
        ({"gpus_per_worker": 0.2}, (8, 8)),
        ({"gpus_per_worker": 2, "threads": 2}, (4, 1)),
        ({"gpus_per_worker": 4}, (8, 0)),
    ],
)
def test_workers_have_room(asked: dict[str, Any], gets: tuple[int, int]) -> None:
    assert on_ray._room({"CPU": 8.0, "GPU": 2.0}, **{"threads": 1, "gpus_per_worker": 0.0, **asked}) == gets


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGKILL, 3), (signal.SIGINT, 1), (signal.SIGTERM, 1)])
def test_a_driver_that_is_killed_or_stopped_goes_on_where_it_ended(
    how: signal.Signals, workers: int, root: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = command(root, tmp_path, workers)
    until(lambda: any(p.startswith("frames") for p in parts(tmp_path)) or process.poll() is not None)
    process.send_signal(how)
    out, err = process.communicate(timeout=_PATIENCE_S)
    if how != signal.SIGKILL:
        assert process.returncode == 130, err.decode()
        assert json.loads(out)["interrupted"]
        assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]
    until(lambda: not workers_of_any(tmp_path))
    before = parts(tmp_path)
    manifest = Job(Storage(root), Storage(tmp_path), _SETTINGS, Here()).run()
    assert manifest["already"] == sum(p.startswith("frames") for p in before) > 0
    assert manifest["complete"]
    assert parts(tmp_path) == expected


def workers_of_any(out: Path) -> bool:
    """Whether a part is being written."""
    first = parts(out)
    time.sleep(1.0)
    return parts(out) != first
