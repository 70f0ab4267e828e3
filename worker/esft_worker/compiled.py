"""Compiles with Numba so that roundings stay as written and a worker starts whatever the state of the cache.

Functions are compiled on their first call, and run without the interpreter lock. The compiled code is kept on
disk where a folder of Numba's choice is writable. Where none is, or the disk is full, or what lies there is
damaged, it is compiled for this process alone.

Limits: what is kept is known by its function's file alone; after a change here, remove the `*.nbi` files.
"""

import pickle
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a part of a kernel; it becomes code of the kernels that call it."""
    return cast("Callable[P, R]", numba.njit(function))


class Kernel(Generic[P, R]):
    """A compiled function over arrays and scalars; a division by zero gives infinity or NaN.

    It rounds as written: no operations are fused, reordered or left out.
    """

    _relaxed: frozenset[str] = frozenset()

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        try:
            self._compiled = self._compile(cache=True)
        except RuntimeError:  # no folder is writable
            self._compiled = self._compile(cache=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it; the first call with such arguments compiles."""
        try:
            return self._compiled(*args, **kwargs)
        except (OSError, EOFError, pickle.UnpicklingError):  # the cache's: kernels raise none of them
            self._compiled = self._compile(cache=False)
            return self._compiled(*args, **kwargs)

    def _compile(self, *, cache: bool) -> Callable[P, R]:
        compiler = numba.njit(nogil=True, cache=cache, error_model="numpy", fastmath=set(self._relaxed))
        return cast("Callable[P, R]", compiler(self._function))


class RelaxedKernel(Kernel[P, R]):
    """A kernel whose sums may be taken in another order, so that they become vector code. NaN and infinity stay."""

    _relaxed = frozenset({"reassoc", "contract", "arcp", "nsz"})
