"""Calls a compiled kernel without Python: where its machine code begins, and how its arguments lie in memory.

Numba's calling convention: a function gets the places of its result and of its error, then its arguments, of which an
array takes several: two pointers to its owner (not needed here), numbers of its elements and of the bytes of each, its
address, and for each axis the length, then for each axis the bytes from one to the next. It returns 0 if all went well.

A kernel's *entry* is a function of one argument, the place of a row of words (int64), one for each of these; it loads
them and calls the kernel. So a loop that knows no kernel can call any.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numba.np import arrayobj

WORD = 8  # bytes
FIELDS = "meminfo", "parent", "nitems", "itemsize", "data", "shape", "strides"  # of an array, as Numba calls them
ADDRESS = FIELDS.index("data")  # among an array's words

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_entries: dict[tuple[int, tuple[Any, ...]], tuple[Any, int]] = {}  # by kernel and types: the kernel, and its entry
_engine: Any = None  # owns the entries' machine code; there is one entry for each kernel and types, so it stays small


@functools.cache
def works() -> bool:
    """Whether Numba passes arguments as said above, which it has done from 0.61 to 0.68 and does not promise."""
    array = types.Array(types.float32, 2, "C")
    try:
        context = cpu_target.target_context
        kind = context.call_conv.get_function_type(types.none, (types.int64, array, types.boolean))
        fields = tuple(context.data_model_manager[array]._fields)
    except (AttributeError, KeyError, NotImplementedError):
        return False
    length = 2 + 1 + len(FIELDS) + 2 + 1  # result and error, a number, an array of two axes, a number
    return (fields, kind.return_type, len(kind.args)) == (FIELDS, _INT32, length) and sys.byteorder == "little"


def entry(kernel: Callable, arguments: tuple[Any, ...]) -> int:
    """The address of the entry of a kernel for arguments like these.

    0 if there is none: for plain Python, and for types that the kernel has not been compiled for or that are no words.
    """
    try:
        kinds = tuple(map(kernel.typeof_pyval, arguments))  # type: ignore[attr-defined]
        known = id(kernel), kinds
        with global_compiler_lock:
            if known not in _entries:
                length = sum(len(words(argument)) for argument in arguments)
                _entries[known] = kernel, _compile(kernel.overloads[kinds], length)  # type: ignore[attr-defined]
            return _entries[known][1]
    except (AttributeError, KeyError, TypeError):
        return 0


def words(argument: Any) -> list[int]:
    """An argument of a kernel as the words of a row. Raises TypeError for one that is neither array nor number."""
    if isinstance(argument, np.ndarray):
        return [0, 0, argument.size, argument.itemsize, argument.ctypes.data, *argument.shape, *argument.strides]
    if isinstance(argument, np.float32):
        return [int(argument.view(np.int32))]
    if isinstance(argument, (bool, int, np.bool_, np.int64)):
        return [int(argument)]
    raise TypeError(f"{type(argument).__name__} is no argument of a kernel")


def _compile(compiled: Any, length: int) -> int:
    """The address of a new entry, for a kernel as Numba has compiled it and a row of so many words."""
    global _engine
    context = cpu_target.target_context
    kind = context.call_conv.get_function_type(compiled.signature.return_type, compiled.signature.args)
    if len(kind.args) != 2 + length:
        raise TypeError
    name = compiled.fndesc.llvm_func_name
    module = ir.Module(f"entry of {name}")
    function = ir.Function(module, ir.FunctionType(_INT32, [_INT64.as_pointer()]), f"entry.{name}")
    builder = ir.IRBuilder(function.append_basic_block())
    result, error = (builder.bitcast(builder.alloca(_INT64), place) for place in kind.args[:2])
    places = [builder.gep(function.args[0], [ir.Constant(_INT64, i)]) for i in range(length)]
    values = [
        builder.load(builder.bitcast(place, type_.as_pointer()))  # of what is shorter than a word, the first bytes
        for place, type_ in zip(places, kind.args[2:], strict=True)
    ]
    address = ir.Constant(_INT64, compiled.library.get_pointer_to_function(name))
    builder.ret(builder.call(builder.inttoptr(address, kind.as_pointer()), [result, error, *values]))
    if _engine is None:
        machine = binding.Target.from_default_triple().create_target_machine(opt=0, jit=True)
        _engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    _engine.add_module(binding.parse_assembly(str(module)))
    _engine.finalize_object()
    return _engine.get_function_address(function.name)


@intrinsic
def call_entry(typingctx, address, row):
    """Call the kernel whose entry has this address, with the row at that address; gives 0 if all went well."""

    def generate(context, builder, signature, arguments):
        entry = ir.FunctionType(_INT32, [_INT64.as_pointer()]).as_pointer()
        place = builder.inttoptr(arguments[1], _INT64.as_pointer())
        return builder.sext(builder.call(builder.inttoptr(arguments[0], entry), [place]), _INT64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def words_at(typingctx, address, count):
    """So many words (int64) at an address, as an array that does not own them."""
    array = types.Array(types.int64, 1, "C")

    def generate(context, builder, signature, arguments):
        address, count = arguments
        made = context.make_array(array)(context, builder)
        data, size = builder.inttoptr(address, _INT64.as_pointer()), ir.Constant(_INT64, WORD)
        arrayobj.populate_array(made, data, shape=[count], strides=[size], itemsize=size, meminfo=None)
        return made._getvalue()

    return array(types.int64, types.int64), generate
