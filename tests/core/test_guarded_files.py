"""Arrays, JSON and names from outside: read as what they are, or refused with a hint."""

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glint.errors import GlintError, InputError, OutputError, SourceError
from glint.files import FileNames, claim, load_npy, read_json

quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def npy(array, **more):
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "i8", "f4", "?"])
def test_arrays_come_as_they_were_saved(tmp_path, dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    back = load_npy(tmp_path / "a.npy")
    assert back.dtype.isnative
    assert np.array_equal(back, array)


@quick
@given(place=st.integers(0, 200), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_array_is_read_or_refused(tmp_path, place, value, cut):
    content = bytearray(npy(np.arange(9.0).reshape(3, 3)))
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] ^= value
    (tmp_path / "a.npy").write_bytes(content)
    try:
        load_npy(tmp_path / "a.npy")
    except GlintError as error:
        assert error.hint or isinstance(error, SourceError)
        return
    assert not cut


def test_archives_objects_and_false_sizes_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.savez(tmp_path / "a.npz", a=1)
    path.write_bytes((tmp_path / "a.npz").read_bytes())
    with pytest.raises(InputError, match="archive"):
        load_npy(path)
    path.write_bytes(npy(np.array([{}], dtype=object), allow_pickle=True))
    with pytest.raises(InputError, match="numbers"):
        load_npy(path)
    path.write_bytes(npy(np.zeros(3)).replace(b"(3,), }   ", b"(9999,), }"))
    with pytest.raises(InputError, match="bytes"):
        load_npy(path)
    with pytest.raises(SourceError, match="No such file"):
        load_npy(tmp_path / "none.npy")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "[1e999]", "[NaN]", "[-Infinity]", "9" * 5000, "\x00", "{", ""],
)
def test_json_that_would_make_its_reader_stumble_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="not JSON"):
        read_json(tmp_path / "a.json", what="card")


def test_brackets_in_strings_are_not_depth(tmp_path):
    value = {"text": "[{" * 1000 + '"\\'}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json", what="card", kind=dict) == value
    with pytest.raises(InputError, match="expected list, got dict"):
        read_json(tmp_path / "a.json", what="card", kind=list)


@quick
@given(names=st.lists(st.text(max_size=300), max_size=8))
def test_no_name_is_a_path_and_none_is_given_twice(tmp_path, names):
    given_ = FileNames()
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True, exist_ok=True)
    safe = [given_.of(name, index) for index, name in enumerate([*names, "../../x", "/etc/x", "a\0b", "\ud800", ".."])]
    assert len({name.casefold() for name in safe}) == len(safe) or len(set(safe)) == len(safe)
    for name in safe:
        path = folder / f"{name}.png"
        assert path.resolve().parent == folder.resolve()
        path.write_bytes(b"")


def test_ordinary_names_stay_as_they_are():
    names = FileNames()
    assert [names.of(n, i) for i, n in enumerate(["frame (1)", "a.b-c_d", "ñandú", "a.b-c_d", ""])] == [
        "frame (1)", "a.b-c_d", "ñandú", "a.b-c_d-000003", "000004",
    ]  # fmt: skip


def test_a_file_has_one_writer(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    with claim(path, overwrite=False) as file:
        file.write(b"mine")
        with pytest.raises(OutputError, match="exists"):
            claim(path, overwrite=False)
        with pytest.raises(OutputError, match="another run"):
            claim(path, overwrite=True)
    assert path.read_bytes() == b"mine"
    claim(path, overwrite=True).close()
    assert path.read_bytes() == b""
