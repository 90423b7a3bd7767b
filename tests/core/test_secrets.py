"""Secrets are hidden in any spelling, and what is none stays readable."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glint.errors import InputError, has_secret, redact, safe_uri
from glint.progress import speaking, talk

ADDRESSES = (
    "rtsp://me:{}@cam/a",
    "rtsps://{}@cam/a",
    "RTSP://me:{}@CAM:554",
    "rtspt://me:{}@c/a",
    "rtsp://cam/a?password={}",
    "rtsp://cam/a;token={}",
    "rtsp://cam/a/token/{}/b",
    "http://cam/mjpg?user=a&pwd={}&x=1",
    "https://cam/a#access_token={}",
    "http://cam/a?Authorization=Bearer%20{}",
    "srt://h:5000?passphrase={}&pbkeylen=16",
    "mqtts://u:{}@b:8883/t",
    "mqtt:u:{}@b",
    "s3://AK:{}@bucket/x",
    "srtp://c:5004?srtp_in_params={}",
    "replay:rtsp://me:{}@c/a",
    " rtsp://me:{}@c/a",
    "rtsp:/me:{}@c/a",
    "rtsp//me:{}@c/a",
    "rtsp:\\\\me:{}@cam",
    "//me:{}@cam/a",
    "me:{}@cam:554/a",
    "rtsp%3A%2F%2Fme%3A{}%40cam%2Fa",
    "user%3Ame%3A{}%40cam",
    "rtsp://cam/user=me_password={}_channel=1.sdp",
)
PIPELINES = (
    "gst:rtspsrc location=rtsp://me:{}@cam/a ! x",
    'gst:rtspsrc location="rtsp://me:{} {}@cam/a" user-id=a user-pw={} ! x',
    "gst:rtspsrc user-pw = {} location = rtsp://me:{}@c ! x",
    "gst:rtspsrc user_pw={} ! x",
    "gst:rtspsrc user-pw='{} {}' ! x",
    'gst:souphttpsrc location=http://c extra-headers="headers,Authorization=(string)\\"Basic {}\\"" ! x',
    'gst:souphttpsrc extra-headers="h,Authorization=(string)Bearer\\ {}" ! x',
    "gst:souphttpsrc extra-headers=headers,authorization={} ! x",
    "gst:souphttpsrc extra-headers='h, X-Token=(string){}' ! x",
    "gst:souphttpsrc extra-headers='h, X-Auth-Token=(string)\"{} {}\"' cookies={} ! x",
    "gst:udpsrc caps='application/x-srtp,media=(string)video,srtp-key=(buffer){}' ! srtpdec ! x",
    "gst:udpsrc ! application/x-srtp, srtp-key=(buffer) {}, roc=(uint)0 ! srtpdec key={} ! x",
    "gst:udpsrc ! application/x-srtp,srtp-key=(buffer)<{},{}>,srtp-auth={} ! x",
    'gst:srtsrc uri="srt://1.2.3.4:5?passphrase={}" passphrase={} ! x',
    "gst:x http-proxy=http://me:{}@p:8080 ! y",
    "gst:curlhttpsrc user-id=a user-pw={} proxy=http://u:{}@p ! x",
    "gst:x pin={} psk={} sas={} signature={} ! y",
    "gst:awss3src access-key={} secret-access-key={} session-token={} ! x",
    'gst:rtspsrc prop:password=\\"{} {}\\" ! x',
)
TEXTS = (
    "Authorization: Bearer {}",
    "authorization = 'Bearer {}'",
    '"Authorization": "Bearer {}"',
    "{{'Authorization': 'Basic {}'}}",
    "Proxy-Authorization: Basic {}",
    'Authorization: Digest username="a", response="{}"',
    'Digest username="a", response="{}"',
    "Cookie: sid={}; a={}",
    "Set-Cookie: {}",
    "X-Api-Key: {}",
    "x-amz-security-token: {}",
    'headers={{"X-Token": "{}"}}',
    'Authorization=(string)"Basic {}"',
    "curl -H 'Authorization: Bearer {}'",
    "Bearer {}",
    "Basic {}",
    "bearer {}",
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{}|2^20|1:4",
    "a=key-mgmt:mikey {}",
    "k=base64:{}",
    "k=clear:{}",
    "--password {}",
    "--token={}",
    "--psk {}",
    "-srtp_in_params {}",
    "srtp_in_suite=AES srtp_in_params={}",
    "srtp-key: {}",
    "master_key {}",
    "passwd: {}",
    "pass={}",
    "PASS: {}",
    "pin: {}",
    "passphrase '{} {}'",
    'password="{} {}"',
    "password='{} {}",
    'PASSWORD = "{}", pwd: "{}"',
    '{{"password": "{}", "api_key": "{}"}}',
    "api key: {}",
    "apikey={}",
    "client_secret={}",
    "credentials=me:{}",
    "auth=me:{}",
    "pwd={}&x=1",
    "a=1&sig={}",
    "SharedAccessSignature sr=x&sig={}",
    "otp={}",
    "jwt={}",
    "session={}",
    "sessionid={}",
    "access_token: {}",
    "password%3D{}",
    "token%3d{}",
    "X-Amz-Signature={}",
    "PSK={}",
    "rtsp://me:{} {}@cam/a",
    "rtsp://me:{}\n{}@cam/a",
    "'rtsp://me:a\"{}@cam'",
)
PLAIN = st.from_regex(r"Zq[0-9][A-Za-z0-9+/_=.-]{4,20}qZ", fullmatch=True)
AROUND = st.sampled_from(
    ["{}", "error: no answer of {}", "{}: no data for 5 s", '"{}"', "[{}]", "a\n{}\nb", "opened {} and x=3"]
)


def pieces(secret: str) -> tuple[str, ...]:
    return secret, secret[:5], secret[-5:]


@given(st.sampled_from(ADDRESSES + PIPELINES + TEXTS), PLAIN, AROUND)
def test_no_piece_of_a_secret_is_shown_in_any_spelling_or_surrounding(form: str, secret: str, around: str) -> None:
    text = form.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    shown = redact(around.replace("{}", text))
    assert not any(piece in shown for piece in pieces(secret)), shown
    assert redact(shown) == shown
    assert shown.startswith(around.partition("{}")[0].rstrip('"'))


@given(st.sampled_from(ADDRESSES + PIPELINES), PLAIN)
@example(ADDRESSES[0], "Zq0aaaaaqZ")
def test_an_address_is_shown_without_it_and_known_to_have_one(form: str, secret: str) -> None:
    uri = form.replace("{}", secret)
    assert not any(piece in safe_uri(uri) for piece in pieces(secret)), safe_uri(uri)
    assert has_secret(uri)
    assert safe_uri(safe_uri(uri)).count(secret) == 0


ODD = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=12).map(
    lambda text: f"Zq{text}qZ"
)


@given(secret=ODD, scheme=st.sampled_from(["rtsp", "rtsps", "udp", "tcp", "http", "ftp"]))
def test_no_password_of_an_address_is_ever_shown(secret: str, scheme: str) -> None:
    for uri in (f"{scheme}://me:{secret}@camera/live", f"{scheme}://camera/live?key={secret}"):
        shown = safe_uri(uri)
        assert "camera" in shown or {*"@?#"} & {*secret}
        assert not any(piece in shown for piece in (secret, secret[:2], secret[-2:]))


@pytest.mark.parametrize(
    "text",
    [
        "no frame for 5 s",
        "night/*.png",
        "file:///data/run=3/a@b.png",
        "v4l2:///dev/video0?fmt=y16",
        "data/me@home.png",
        "synthetic://?size=96x80&seed=3",
        "raw:-?size=64x48&dtype=uint16&header=512&frame_header=4",
        "tcp://[::1]:5000",
        "rtsp://camera:554/live",
        "lsnet-s:int8@tensorrt",
        "gst:v4l2src ! video/x-raw,format=(string)GRAY16_LE,width=640 ! x",
        "sigma: expected a positive number, got -1",
        "the hash is 0123456789ab…, its card says ab0123456789…",
        "keyframe 3",
        "page 1 of 2: it is torn",
        "frame 12 at 10:30:05",
        "set GLINT_KEY to the key of the builder",
        "Basic settings",
        "mqtt://broker:1883/glint",
        "http://127.0.0.1:8080",
        "is header=BYTES right?",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
    assert safe_uri(text) == text or "://" in text
    assert not has_secret(text)


def test_what_glint_takes_for_itself_is_no_secret() -> None:
    assert not has_secret("rtsp://camera/live#timeout=3&transport=udp&bits=14")
    assert has_secret("rtsp://camera/live#access_token=abc")
    assert has_secret("rtsp://camera/live?channel=1")  # nobody can tell


def test_what_is_said_hides_secrets_whoever_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking():
        talk("warning: token: secret, and rtsp://me:secret@c/a")
    assert "secret" not in capsys.readouterr().err


def test_errors_hide_secrets_whoever_wrote_them() -> None:
    error = InputError("cannot open rtsp://me:secret@c/a", hint="try password=secret")
    assert "secret" not in f"{error} {error.hint} {error!r} {error.args}"


@pytest.mark.parametrize("part", ["a=b&", "a", "a:", "%3A", "x-", "key=", ":", "'", "inline:", "authorization"])
def test_long_texts_take_no_time_and_hide_the_same(part: str) -> None:
    """What a text repeats is no reason to look at it for minutes, or to end in a RecursionError."""
    told = redact(part * 5_000 + " rtsp://me:geheim@camera/1 password=geheim")
    assert "geheim" not in told and len(told) < 7_000
    lines = "\n".join(["at line 1 of a long traceback"] * 1_000 + ["password=geheim"])
    assert redact(lines) == lines.replace("geheim", "***")


def test_properties_within_properties_are_hidden() -> None:
    assert "geheim" not in redact("a=" * 500 + "password=geheim")
    assert redact("a=1&b=2&token=geheim&c=3") == "a=1&b=2&token=***"
