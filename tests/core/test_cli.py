"""The command line: instant help, error and hint lines, exit codes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from glint import __version__, cli
from glint.errors import EXIT_ENVIRONMENT, EXIT_UNEXPECTED, EngineError, InputError, OutputError

HEAVY = {"numpy", "scipy", "torch", "onnxruntime", "onnx", "PIL", "tensorrt", "pycuda", "av"}


@pytest.fixture(autouse=True)
def restore_sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def python(code, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd, check=False
    )


@pytest.fixture
def command(monkeypatch):
    """Installs a command ``fake`` that does what it is given."""

    def install(action):
        module = ModuleType("fake_command")
        module.add_arguments = lambda parser: parser.add_argument("--level", type=cli.positive_int, default=1)
        module.main = action
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", ("fake_command", "pretend"))

    return install


def raising(error):
    def action(arguments):
        raise error

    return action


# Help


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version_import_no_heavy_library(tmp_path, words):
    code = (
        "import json, runpy, sys\n"
        "try: runpy.run_module('glint', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: code = end.code\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    result = python(code, *words, cwd=tmp_path)
    status, modules = json.loads(result.stderr)
    assert status == 0
    assert HEAVY.isdisjoint(modules)
    assert result.stdout.startswith("usage: glint" if words == ["--help"] else f"glint {__version__}")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {about}" in text for name, (_, about) in cli.COMMANDS.items())


def test_help_of_a_command_shows_its_arguments_and_its_purpose(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["simulate", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--condition" in text
    assert "--debug" in text


def test_no_command_at_all_prints_help(capsys):
    assert cli.main([]) == 2
    assert "usage: glint" in capsys.readouterr().err


def test_help_of_every_command_needs_no_library_but_numpy(tmp_path):
    code = (
        "import contextlib, io, json, sys; from glint import cli\n"
        "for name in cli.COMMANDS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        cli.main([name, '--help'])\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    result = python(code, cwd=tmp_path)
    assert result.stderr == ""
    assert (HEAVY - {"numpy"}).isdisjoint(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["frobnicate"], "COMMAND 'frobnicate' is not known", "glint --help tells more"),
        (["rnu", "x"], "COMMAND 'rnu' is not known", "did you mean run? glint --help tells more"),
        (["simulate"], "the following arguments are required: out", "glint simulate --help tells more"),
        (["simulate", "a", "--nubmer", "3"], "glint simulate knows no --nubmer 3", "did you mean --number? glint sim"),
        (["simulate", "a", "--condition", "float1"], "--condition 'float1' is not known: expected one of float, 14bit",
         "did you mean float? glint simulate --help tells more"),
        (["simulate", "a.npy", "--number", "0"], "argument --number: expected a whole number", "glint simulate --help"),
    ],
)  # fmt: skip
def test_wrong_usage_is_an_error_with_the_nearest_word(words, error, hint, capsys):
    assert cli.main(words) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {error}") and second.startswith(f"hint: {hint}")


# Errors


def test_an_error_is_one_line_its_hint_another_and_the_exit_code_its_own(command, capsys):
    command(raising(EngineError("the engine broke", hint="mend it")))
    assert cli.main(["fake"]) == 3
    assert capsys.readouterr() == ("", "error: the engine broke\nhint: mend it\n")


def test_an_error_without_a_hint_has_the_one_of_its_kind(command, capsys):
    command(raising(InputError("that is wrong")))
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == f"error: that is wrong\nhint: {InputError.usual_hint}\n"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 3), (errno.EADDRINUSE, 3), (errno.EROFS, 3), (errno.EACCES, 2), (None, 2)]
)
def test_a_full_disk_is_no_wrong_usage(command, capsys, number, code):
    def work(arguments):
        try:
            raise OSError(number, "no room")
        except OSError as error:
            raise OutputError("cannot write x") from error

    command(work)
    assert cli.main(["fake"]) == code
    told = capsys.readouterr().err
    assert told.startswith("error: cannot write x\nhint: ") and told.count("\n") == 2


@pytest.mark.parametrize("stream", ["closed", "none"])
def test_a_standard_error_that_is_gone_is_survived(command, monkeypatch, capsys, stream):
    def work(arguments):
        cli.talk("hello")
        raise InputError("that is wrong")

    command(work)
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone if stream == "closed" else None)
    assert cli.main(["fake"]) == 2
    monkeypatch.undo()
    assert capsys.readouterr().out == ""


def test_no_message_tells_a_password(command, capsys):
    command(raising(InputError("rtsp://me:se/cr@et@camera/a is no rtsp://you:secret@b")))
    assert cli.main(["fake"]) == 2
    with suppress(SystemExit):
        cli.main(["fake", "--wrong", "rtsp://me:secret@camera/a"])
    shown = capsys.readouterr().err
    assert "secret" not in shown and "cr@et" not in shown
    assert "camera/a" in shown


def test_debug_adds_the_traceback(command, capsys):
    command(raising(InputError("that is wrong")))
    assert cli.main(["fake", "--debug"]) == 2
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "error: that is wrong\nhint: " in text


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), RecursionError("deep"), MemoryError("much")])
def test_no_error_of_any_command_ends_in_a_traceback(monkeypatch, capsys, name, error):
    module = ModuleType("raising_command")
    module.add_arguments, module.main = lambda parser: None, raising(error)
    monkeypatch.setitem(sys.modules, "raising_command", module)
    monkeypatch.setitem(cli.COMMANDS, name, ("raising_command", "raise"))
    assert cli.main([name]) == EXIT_UNEXPECTED
    shown = capsys.readouterr()
    assert f"error: unexpected {type(error).__name__}: {error}" in shown.err
    assert "hint:" in shown.err and "Traceback" not in shown.err
    assert cli.main([name, "--debug"]) == EXIT_UNEXPECTED
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "extra"), [("torch", "train"), ("onnx.checker", "export"), ("av", "video")])
def test_a_missing_library_names_the_extra_that_brings_it(command, capsys, module, extra):
    command(raising(ModuleNotFoundError(f"No module named {module!r}", name=module)))
    assert cli.main(["fake"]) == 3
    assert (
        capsys.readouterr().err
        == f"error: {module} is not installed\nhint: pip install '.[{extra}]' in the checkout of glint\n"
    )


def test_a_missing_module_of_our_own_is_not_hidden(command):
    command(raising(ModuleNotFoundError("No module named 'glint.nowhere'", name="glint.nowhere")))
    assert cli.main(["fake"]) == EXIT_UNEXPECTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_commands_say_so_and_exit_with_130(command, capsys, number):
    command(lambda arguments: os.kill(os.getpid(), number))
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path):
    code = (
        "import sys, types; from glint import cli; fake = types.ModuleType('fake')\n"
        "fake.add_arguments = lambda parser: None\n"
        "fake.main = lambda arguments: [print('x' * 100) for _ in range(100_000)] and 0\n"
        "sys.modules['fake'] = fake; cli.COMMANDS['fake'] = ('fake', 'pretend'); sys.exit(cli.main(['fake']))"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout.readline() == "x" * 100 + "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_the_exit_code_is_what_the_command_returns(command):
    command(lambda arguments: arguments.level)
    assert cli.main(["fake", "--level", "4"]) == 4
    command(lambda arguments: None)
    assert cli.main(["fake"]) == 0


# A real command


def test_simulate_writes_talks_on_standard_error_and_refuses_to_overwrite(tmp_path, capsys):
    out = tmp_path / "a.npy"
    assert cli.main(["simulate", str(out), "--number", "3"]) == 0
    assert capsys.readouterr() == ("", f"wrote 3 patches (float, seed 1) to {out}\n")
    content = out.read_bytes()
    assert cli.main(["simulate", str(out), "--number", "4"]) == 2
    assert capsys.readouterr().err.startswith(f"error: output {out} exists\nhint: ")
    assert out.read_bytes() == content
    assert cli.main(["simulate", str(out), "--number", "4", "--overwrite"]) == 0
    assert out.read_bytes() != content


def test_a_negative_seed_is_a_usage_error(tmp_path, capsys):
    assert cli.main(["simulate", str(tmp_path / "a.npy"), "--seed", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error: --seed")


# Helpers


def test_json_goes_to_standard_output_and_talk_to_standard_error(capsys):
    cli.print_json({"a": [1, None]})
    cli.talk("hello")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": [1, None]}
    assert err == "hello\n"


@pytest.mark.parametrize("text", ["0", "-2", "1.5", "x", ""])
def test_positive_int_takes_whole_numbers_from_1_only(command, capsys, text):
    command(lambda arguments: 0)
    assert cli.main(["fake", f"--level={text}"]) == 2
    assert "--level" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["doctor"], "hello\n"), (["doctor", "-q"], ""), (["doctor", "--quiet"], ""), (["-q", "doctor"], "")],
)
def test_quiet_says_nothing(capsys, monkeypatch, words, said):
    monkeypatch.setattr("glint.progress._listeners", 0)
    monkeypatch.setattr("glint.runtime.commands.doctor.main", lambda arguments: cli.talk("hello"))
    assert cli.main(words) == 0
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_options(shell, capsys):
    pytest.importorskip("shtab", reason="needs shtab")
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", shell])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*cli.COMMANDS, "--false-tracks-per-hour", "--workspace", "lsnet-s"))


# Standard streams that are closed or full


@pytest.mark.parametrize("closed", [(2,), (1, 2), (0, 1, 2)])
def test_no_file_takes_the_number_of_a_closed_stream(tmp_path, closed):
    out = tmp_path / "told"
    code = (
        f"import os, sys\nfor n in {closed}: os.close(n)\n"
        "import glint.cli\nglint.cli.COMMANDS = {'x': ('x', 'x')}\nglint.cli._fill_streams()\n"
        f"file = open({str(out)!r}, 'w')\nfile.write(str(file.fileno()))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert int(out.read_text()) > 2


def test_a_closed_standard_output_is_an_error_of_what_writes_there(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="no standard output"):
        cli.print_json({})


def test_a_full_standard_output_is_told_once():
    code = "from glint.cli import _guarded\nimport sys\nsys.exit(_guarded(lambda: print('x' * 10) or 0, debug=False))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == EXIT_ENVIRONMENT
    assert done.stderr.splitlines()[0] == "error: cannot write standard output: No space left on device"
    assert len(done.stderr.splitlines()) == 2
