"""Building the C++ kernels once a machine, and loading them through ctypes.

The library is kept in the user's cache folder under a digest of the source, the flags, the compiler and the processor.
It is not linked to an OpenMP of its own: torch has loaded one already, whose threads both then share.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tunewise import files
from tunewise.cache import cache_folder

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fPIC", "-fopenmp")
SECONDS = 120.0  # a build takes two to six
_SET_ASIDE: list[bool] = []


def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be built or are turned off (TUNEWISE_NATIVE=0); `why_not` says why."""
    return None if _SET_ASIDE else _loaded()[0]


@contextmanager
def set_aside() -> Iterator[None]:
    """Inside the block there are no kernels, as on another device."""
    _SET_ASIDE.append(True)
    try:
        yield
    finally:
        _SET_ASIDE.pop()


def why_not() -> str:
    """Why there are no kernels; "" where there are."""
    return "they are set aside" if _SET_ASIDE else _loaded()[1]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("TUNEWISE_NATIVE") == "0":
        return None, "TUNEWISE_NATIVE=0 turns them off"
    found = compiler()
    if found is None:
        return None, "no C++ compiler (c++, g++ or clang++)"
    try:
        return ctypes.CDLL(str(_built(found))), ""
    except subprocess.CalledProcessError as error:
        return None, f"the build failed: {(error.stderr.strip().splitlines() or ['no reason given'])[0]}"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"the build failed: {error}"


def compiler() -> str | None:
    """That of CXX, or the first C++ compiler on the path."""
    named = os.environ.get("CXX")
    return next((found for name in (named, "c++", "g++", "clang++") if name and (found := shutil.which(name))), None)


def _built(by: str) -> Path:
    """The library of these sources on this machine, built where it is not there yet."""
    sources = sorted(FOLDER.glob("*.cpp"))
    texts = [path.read_text("utf-8") for path in (*sources, *sorted(FOLDER.glob("*.h")))]
    told = subprocess.run([by, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS)
    what = [*texts, " ".join(FLAGS), told.stdout, processor(), torch.__version__]
    digest = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
    library = cache_folder() / f"kernels-{digest}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory() as folder, files.writing(library) as path:
            compiled = {str(source): str(Path(folder) / f"{source.stem}.o") for source in sources}
            commands = [[*FLAGS, "-c", source, "-o", target] for source, target in compiled.items()]
            # without -fopenmp when linking: its symbols are found in the one that torch has loaded
            for command in (*commands, ["-shared", *compiled.values(), "-o", str(path)]):
                subprocess.run([by, *command], capture_output=True, text=True, check=True, timeout=SECONDS)
    return library


def processor() -> str:
    """What `-march=native` depends on."""
    flags = Path("/proc/cpuinfo")
    lines = flags.read_text().splitlines() if flags.is_file() else []
    told = [line for line in lines if line.startswith(("model name", "flags"))][:2]
    return "\n".join(told) or platform.processor() + platform.machine()
