"""The library of machine code, made of the same Python functions that Numba would compile at their first call.

``python -m glint.build_native.build --out FOLDER`` writes a library for each kind of processor and its table. Numba is
asked for LLVM's intermediate code only; everything is put together once and optimised once, so that a function that is
part of others is not compiled again and again. Run when a wheel is made; it needs Numba and a linker.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, compiler_lock
from numba.core.llvm_bindings import create_pass_builder
from numba.core.registry import cpu_target
from numba.core.runtime import nrtdynmod
from numba.core.runtime.nrt import rtsys
from numba.np import arrayobj

import glint.compiled
from glint.build_native.memory import MEMORY
from glint.compiled import ENTRIES, Compiled, digest_of
from glint.errors import MissingDependencyError
from glint.files import write_json
from glint.native.library import TABLE, TARGETS, Target
from glint.native.signature import Argument, Array, Number, parse

MODULES = (
    "glint.processing.candidates", "glint.processing.connected", "glint.processing.crop", "glint.processing.extent",
    "glint.processing.normalise", "glint.processing.point_evidence", "glint.runtime.pipeline.continued",
    "glint.runtime.pipeline.cues", "glint.runtime.pipeline.spots", "glint.runtime.tracking.faint",
    "glint.runtime.tracking.joint", "glint.runtime.tracking.moving", "glint.runtime.tracking.registration",
    "glint.runtime.tracking.rest", "glint.runtime.tracking.roll", "glint.runtime.tracking.scene_memory",
    "glint.runtime.tracking.tracker", "glint.runtime.unmixing.refine", "glint.runtime.unmixing.verdicts",
)  # fmt: skip
_WORD = ir.IntType(64)
_STATUS = ir.IntType(32)
_KINDS = {
    "b1": types.boolean, "u1": types.uint8, "u2": types.uint16, "i4": types.int32, "i8": types.int64,
    "f4": types.float32, "f8": types.float64,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


class _Library(codegen.CPUCodeLibrary):
    """Collects intermediate code, and leaves it as it is."""

    def add_llvm_module(self, module: Any) -> None:
        self._final_module.link_in(module)

    def finalize(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    def _finalize_specific(self) -> None:
        pass


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library  # type: ignore[assignment]

    def set_env(self, env_name: str, env: Any) -> None:
        pass


def build(out: Path, targets: Sequence[Target], functions: Sequence[Compiled] | None = None) -> None:
    """Write the libraries of some kinds of processors, and the table of what is in them, into a folder.

    It turns this process's Numba into one that makes no machine code: nothing can be compiled and called any more.

    Raises:
        MissingDependencyError: if there is no linker.
    """
    glint.compiled._ROOT = None  # nothing of this is machine code of the machine at hand
    glint.compiled._OPTIONS["no_cpython_wrapper"] = True
    context, functions = cpu_target.target_context, _entries() if functions is None else functions
    rtsys.initialize(context)
    context._internal_codegen = _Codegen("glint")
    with compiler_lock.global_compiler_lock:
        module, table = _collected(context, functions)
    out.mkdir(parents=True, exist_ok=True)
    for target in targets:
        _link(_object_of(module, target), out / target.file, target)
    write_json(out / TABLE, table)


def _entries() -> list[Compiled]:
    for name in MODULES:
        importlib.import_module(name)
    return sorted(ENTRIES, key=lambda one: one.label)


def _collected(context: Any, functions: Sequence[Compiled]) -> tuple[str, dict[str, Any]]:
    """All functions as one module, and what the entries take, return, and were made of."""
    wrappers = ir.Module("glint.wrappers")
    libraries: dict[int, Any] = {}
    table: dict[str, Any] = {}
    for function in functions:
        variants = []
        for number, text in enumerate(function.signatures):
            arguments = tuple(_typed(one, function) for one in parse(text))
            result = function.dispatcher.compile(arguments) and function.dispatcher.overloads[arguments]
            _gather(result.library, libraries)
            symbol = f"{function.label}.{number}"
            returned = _wrap(context, wrappers, symbol, result)
            variants.append({"symbol": symbol, "takes": text, "returns": returned})
        table[function.label] = {"digest": digest_of(function.function), "variants": variants}
    whole = llvm.parse_assembly(cgutils.normalize_ir_text(str(nrtdynmod.create_nrt_module(context)[0])))
    for library in libraries.values():
        for one in library._final_module.functions:
            if one.name.startswith("__excinfo_unwrap_args"):  # many have their own copy
                one.linkage = "linkonce_odr"
        whole.link_in(library._final_module, preserve=True)
    whole.link_in(llvm.parse_assembly(cgutils.normalize_ir_text(str(wrappers))))
    whole.link_in(llvm.parse_assembly(MEMORY))
    for one in (*whole.functions, *whole.global_variables):
        if not one.is_declaration and not one.name.startswith(("glint.", "llvm.")):
            one.linkage = "internal"
    whole.verify()
    return str(whole), table


def _gather(library: Any, libraries: dict[int, Any]) -> None:
    if id(library) not in libraries and isinstance(library, _Library):  # Numba's own is of this machine
        libraries[id(library)] = library
        for one in library._linking_libraries:
            _gather(one, libraries)


def _typed(argument: Argument, function: Compiled) -> Any:
    """Numba's type."""
    if isinstance(argument, Number):
        return _KINDS[argument.kind]
    if isinstance(argument, Array):
        return types.Array(_KINDS[argument.kind], argument.dims, "C")
    parts = [_typed(one, function) for one in argument.parts]
    if argument.name:
        return types.NamedTuple(parts, function.function.__globals__[argument.name])
    return types.Tuple(parts)


def _wrap(context: Any, module: ir.Module, symbol: str, compiled: Any) -> str:
    """A C function ``i32 symbol(i64 *words)`` about a compiled one; returns what it returns, as a signature.

    The words are the arguments (an array is the address of what NumPy's object holds), and behind them room for what
    is returned (an array is the address of its owner, its own and its shape). The status is not 0 on failure.
    """
    description = compiled.fndesc
    function = ir.Function(module, ir.FunctionType(_STATUS, [_WORD.as_pointer()]), symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    inner = ir.Function(
        module, context.call_conv.get_function_type(description.restype, description.argtypes),
        description.llvm_func_name,
    )  # fmt: skip
    words = _Words(builder, function.args[0])
    values = [_read(context, builder, kind, words) for kind in description.argtypes]
    status, result = context.call_conv.call_function(builder, inner, description.restype, description.argtypes, values)
    with builder.if_then(builder.not_(status.is_ok)):
        builder.ret(ir.Constant(_STATUS, 1))
    returned = _write(context, builder, description.restype, result, words)
    builder.ret(ir.Constant(_STATUS, 0))
    return returned


class _Words:
    """One word after the other."""

    def __init__(self, builder: ir.IRBuilder, first: Any) -> None:
        self.builder, self.first, self.number = builder, first, 0

    def place(self) -> Any:
        place = self.builder.gep(self.first, [ir.Constant(_WORD, self.number)])
        self.number += 1
        return place

    def read(self) -> Any:
        return self.builder.load(self.place())

    def write(self, value: Any) -> None:
        self.builder.store(value, self.place())


def _read(context: Any, builder: ir.IRBuilder, kind: Any, words: _Words) -> Any:
    if isinstance(kind, types.BaseTuple):
        inner: Any = kind
        return context.make_tuple(builder, kind, [_read(context, builder, one, words) for one in inner.types])
    word = words.read()
    if isinstance(kind, types.Float):
        double = builder.bitcast(word, ir.DoubleType())
        return double if kind.bitwidth == 64 else builder.fptrunc(double, ir.FloatType())
    if not isinstance(kind, types.Array):
        wanted = context.get_value_type(kind)
        return word if wanted == _WORD else builder.trunc(word, wanted)
    array = arrayobj.make_array(kind)(context, builder)
    fields = builder.inttoptr(word, _WORD.as_pointer())  # of NumPy's object: address, dimensions, shape
    word, shape_at = (builder.load(builder.gep(fields, [ir.Constant(_WORD, i)])) for i in (0, 2))
    lengths = builder.inttoptr(shape_at, _WORD.as_pointer())
    shape = [builder.load(builder.gep(lengths, [ir.Constant(_WORD, i)])) for i in range(kind.ndim)]
    size = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides: list[Any] = []
    step = size
    for length in reversed(shape):
        strides.insert(0, step)
        step = builder.mul(step, length)
    pointer = builder.inttoptr(word, context.get_data_type(kind.dtype).as_pointer())
    arrayobj.populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=size, meminfo=None)
    return array._getvalue()


def _write(context: Any, builder: ir.IRBuilder, kind: Any, value: Any, words: _Words) -> str:
    if isinstance(kind, types.NoneType):
        return ""
    if isinstance(kind, types.BaseTuple):
        inner: Any = kind
        parts = [
            _write(context, builder, one, builder.extract_value(value, i), words) for i, one in enumerate(inner.types)
        ]
        return f"({' '.join(parts)})"
    if isinstance(kind, types.Array):
        array = arrayobj.make_array(kind)(context, builder, value)
        words.write(builder.ptrtoint(array.meminfo, _WORD))
        words.write(builder.ptrtoint(array.data, _WORD))
        for length in cgutils.unpack_tuple(builder, array.shape, kind.ndim):
            words.write(length)
        return f"{_NAMES[kind.dtype]}[{kind.ndim}]"
    if kind == types.float64:
        words.write(builder.bitcast(value, _WORD))
        return "f8"
    if kind in (types.int64, types.intp):
        words.write(value)
        return "i8"
    raise TypeError(f"a compiled function that Python calls returns {kind}")


def _object_of(module: str, target: Target) -> bytes:
    """Machine code of a module for a kind of processor."""
    machine, whole = _optimised(module, target)
    code: bytes = machine.emit_object(whole)
    return code


def _optimised(module: str, target: Target) -> tuple[Any, Any]:
    """LLVM's machine of a kind of processor, and a module as it is best for that."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="default"
    )
    whole = llvm.parse_assembly(module)
    whole.triple, whole.data_layout = target.triple, str(machine.target_data)
    # As Numba does: each function by itself, without which many loops miss the vector registers; then what lets counts
    # of references be dropped; then all.
    builder = create_pass_builder(machine, opt=3, loop_vectorize=True)
    manager = builder.getFunctionPassManager()
    manager.add_refprune_pass(codegen._parse_refprune_flags())
    for function in whole.functions:
        if not function.is_declaration:
            manager.run(function, builder)
    for level, passes in ((0, False), (3, True)):
        builder = create_pass_builder(machine, opt=level, loop_vectorize=passes)
        manager = builder.getModulePassManager()
        if not passes:
            manager.add_global_dead_code_eliminate_pass()
            manager.add_loop_rotate_pass()
            manager.add_instruction_combine_pass()
            manager.add_jump_threading_pass()
        manager.add_refprune_pass(codegen._parse_refprune_flags())
        manager.run(whole, builder)
    return machine, whole


def _link(code: bytes, out: Path, target: Target) -> None:
    """A shared library of machine code."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "code.o")
        source.write_bytes(code)
        command = [*_linker(target), "-shared", "-Wl,--gc-sections", "-s", "-o", str(out), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingDependencyError(
            f"cannot link {out.name}: {done.stderr.strip()[-500:]}", hint="install a C compiler, or pip install ziglang"
        )


def _linker(target: Target) -> list[str]:
    """The compiler's driver, as a linker: this machine's own, or that of Zig, which knows all machines."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", target.zig]
    own = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if own and target.machine == platform.machine():
        return [own]
    raise MissingDependencyError(
        f"no linker for {target.machine}", hint="pip install ziglang, or install gcc or clang on such a machine"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m glint.build_native.build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="for all kinds of processors, not this one alone")
    arguments = parser.parse_args(argv)
    build(arguments.out, [t for t in TARGETS if arguments.all or t.machine == platform.machine()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
