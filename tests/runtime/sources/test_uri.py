from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.errors import InputError, redact, safe_uri
from glint.runtime.sources.uri import full_scale_of_bits, not_negative, one_of, parameters, positive, split_path
from glint.types import FrameSize


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://camera:554/live", "rtsp://camera:554/live"),
        ("rtsp://me:secret@camera/live", "rtsp://***@camera/live"),
        ("RTSP://me@camera/live", "RTSP://***@camera/live"),
        ("rtsp://me:se@cr/et@camera/live", "rtsp://***@camera/live"),
        ("rtsp://me:se#c?ret@camera/live", "rtsp://***"),
        ("rtsp://camera/live?key=se@cret", "rtsp://***"),
        ("rtsp://camera/live?user=me&password=secret", "rtsp://camera/live?***"),
        ("rtsp://camera/user=me_password=secret_channel=1.sdp", "rtsp://camera/user=***"),
        ("rtsp://camera/live#timeout=3", "rtsp://camera/live?***"),
        ("tcp://[::1]:5000", "tcp://[::1]:5000"),
        ("http://me:secret@elsewhere", "http://***@elsewhere"),
        ("gst:rtspsrc location=rtsp://me:secret@camera/a ! x", "gst:rtspsrc location=rtsp://***@camera/a ! x"),
        ('gst:rtspsrc location="rtsp://me:se cret@camera/a" ! x', "gst:rtspsrc location=rtsp://***@camera/a ! x"),
        ("gst:rtspsrc user-id=me user-pw='my secret' ! x width=5", "gst:rtspsrc user-id=*** user-pw=*** ! x width=5"),
        ("gst:rtsp://me:secret@camera/a ! decodebin", "gst:rtsp://***@camera/a ! decodebin"),
        ("night/*.png", "night/*.png"),
        ("file:///data/run=3/a@b.png", "file:///data/run=3/a@b.png"),
        ("v4l2:///dev/video0?fmt=y16", "v4l2:///dev/video0?fmt=y16"),
        ("synthetic://?size=96x80&seed=3", "synthetic://?size=96x80&seed=3"),
        ("raw:-?size=64x48&dtype=uint16", "raw:-?size=64x48&dtype=uint16"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert safe_uri(uri) == shown


def test_a_text_is_cleaned_of_every_url_and_password() -> None:
    text = 'Could not open "rtsp://me:secret@camera/a": password=secret, tried tcp://b:secret@c/ too; file:///tmp/x=1'
    assert "secret" not in redact(text)
    assert "file:///tmp/x=1" in redact(text)
    assert redact("no frame for 5 s") == "no frame for 5 s"


KNOWN = {
    "size": FrameSize.parse,
    "fps": positive,
    "fmt": one_of("y16", "grey"),
    "wait": not_negative,
    "bits": full_scale_of_bits,
}


def test_parameters_are_converted() -> None:
    values = parameters("x:", "size=640x512&fps=29.97&fmt=grey&wait=0&bits=14", KNOWN)
    assert values == {"size": (640, 512), "fps": 29.97, "fmt": "grey", "wait": 0.0, "bits": 16383.0}
    assert parameters("x:", "", KNOWN) == {}


@pytest.mark.parametrize(
    "query",
    [
        "size=640", "size=0x5", "size=99999x5", "size=-5x5", "size=٣x٣", "size=", "fps=0", "fps=nan", "fps=inf",
        "fps=-1", "fps=x", "fmt=Y16", "wait=-1", "wait=nan", "bits=7", "bits=17", "bits=8.0", "colour=red", "=3",
        "size", "fps=1&fps=2",
    ],
)  # fmt: skip
def test_a_malformed_unknown_or_repeated_parameter_is_an_input_error(query: str) -> None:
    with pytest.raises(InputError, match="x:"):
        parameters("x:", query, KNOWN)


def test_an_error_shows_no_secret_of_its_uri() -> None:
    with pytest.raises(InputError) as caught:
        parameters("rtsp://me:secret@camera/?key=secret", "colour=red", KNOWN)
    assert "secret" not in str(caught.value)
    assert "fps" in (caught.value.hint or "")


@given(st.text(max_size=30))
def test_any_query_is_parsed_or_refused(query: str) -> None:
    try:
        values = parameters("x:", query, KNOWN)
    except InputError:
        return
    assert set(values) <= set(KNOWN)


def test_parameters_are_split_off_unless_they_are_part_of_a_name(tmp_path: Path) -> None:
    assert split_path("clip.mkv?gray=luma&bits=14") == ("clip.mkv", "gray=luma&bits=14")
    assert split_path("night/a?b.mkv") == ("night/a?b.mkv", "")
    odd = tmp_path / "what?is=this.mkv"
    odd.write_bytes(b"")
    assert split_path(str(odd)) == (str(odd), "")
