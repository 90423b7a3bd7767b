"""Machine code on disk: Numba's files behind seals, looked at before anything of them is unpickled or mapped.

What is odd in any way (torn, damaged, of another key or another Numba) is as good as not there, and made again.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba.core.caching

from glint.formats.seal import sealed, unsealed

_Files: Any = numba.core.caching.IndexDataCacheFile  # Numba has no types


class SealedFiles(_Files):  # type: ignore[misc]
    """The index of a function's machine codes, and these."""

    @staticmethod
    def of(plain: Any) -> SealedFiles:
        """In the place of Numba's own."""
        ours = SealedFiles.__new__(SealedFiles)
        ours.__dict__.update(vars(plain))
        return ours

    def _load_index(self) -> dict[Any, str]:
        kept = _opened(self._index_path, lambda value: value[:2] == (self._version, self._source_stamp))
        return {} if kept is None else dict(kept[2])

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return _opened(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, value: Any) -> None:
        with self._open_for_write(path) as stream:
            stream.write(sealed(self._dump(value)))


def _opened(path: str, suits: Callable[[Any], bool] = lambda value: True) -> Any:
    """What a file holds, or None."""
    try:
        content = unsealed(Path(path).read_bytes())
        value = None if content is None else pickle.loads(content)  # noqa: S301  (sealed, in a folder of one's own)
        return value if value is not None and suits(value) else None
    except Exception:  # whatever it is: it is made again
        return None
