"""A strict reader of what a Prometheus endpoint answers."""

from __future__ import annotations

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Strict reader of the exposition format: every sample has a HELP and a TYPE before it, and occurs once."""
    assert text.endswith("\n")
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    helped, kinds = set(), {}
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helped
            assert kind in {"counter", "gauge", "histogram"}
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            family = match[1]
            if family not in kinds:
                family = re.sub("_(bucket|sum|count)$", "", family)
                assert kinds[family] == "histogram"
            assert (kinds[family] == "counter") == family.endswith("_total")
            rest, labels = match[3] or "", []
            while rest:
                label = LABEL.match(rest)
                assert label, line
                labels.append((label[1], re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])))
                rest = rest[label.end() :]
            key = (match[1], tuple(sorted(labels)))
            assert key not in samples
            samples[key] = float(match[4])
    return samples
