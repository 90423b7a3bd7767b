"""Every command line, program and pipe in the documentation is one that glint, Python and the shell would take.

Command lines of glint go through its own parsers; nothing is run, because most need a camera, a GPU, data or hours.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from glint.cli import COMMANDS, build_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("", "bash", "sh")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    return [body for language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def glint_lines(text):
    """The words behind ``glint`` of each command line in a piece of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:\||&&|;|&)\s|\s[<>]\s?", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a quotation over several lines
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*|sudo|time|exec", words[0]):
                words = words[1:]
            if len(words) > 1 and words[0] == "glint" and words[1] in COMMANDS:
                yield words[1:]


@cache
def parser(command):
    return build_parser(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_command_lines_of_glint_parse(page):
    for block in blocks(page, *SHELL):
        for words in glint_lines(block):
            arguments, unknown = parser(words[0]).parse_known_args(words)
            assert unknown == [], words
            assert arguments.command == words[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_options_in_running_text_exist(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for code in re.findall(r"`glint ([a-z]+)([^`]*)`", text):
        if code[0] in COMMANDS:
            known = parser(code[0]).commands.choices[code[0]]._option_string_actions
            options = re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", code[1])
            assert {o for o in options if o not in known} == set(), code


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_programs_compile(page):
    if page.name == "api.md":  # it holds signatures, and test_docs.py its truth
        return
    for block in blocks(page, "python"):
        compile(block, f"{page.name}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_shell_is_shell(page):
    for block in blocks(page, *SHELL):
        starts = {" ".join(line.split()[:2]) for line in block.splitlines()}
        if any(s.split()[:1] in (["make"], ["pip"], ["sudo"], ["docker"]) for s in starts) or list(glint_lines(block)):
            done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)  # noqa: S607
            assert done.returncode == 0, (block, done.stderr)


def test_every_page_stands_in_the_site():
    told = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
