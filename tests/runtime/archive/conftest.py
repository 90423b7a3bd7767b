"""A bucket on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket on this machine."""
    for name in ("moto", "flask", "flask_cors"):
        pytest.importorskip(name, reason=f"the test of buckets needs moto[s3], flask and flask-cors: no {name}")
    boto3 = pytest.importorskip("boto3", reason="the test of buckets needs boto3, which comes with moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
            client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
            for _ in range(300):
                try:
                    client.create_bucket(Bucket="night")
                    break
                except Exception:
                    time.sleep(0.2)
            yield f"s3://a:b@night/{{}}?region=us-east-1&scheme=http&endpoint_override={quote(f'127.0.0.1:{port}')}"
        finally:
            server.kill()
