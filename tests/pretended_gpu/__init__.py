"""A GPU where there is none: what torch calls cuda, in memory of the CPU.

Every operator runs there as on the CPU, refuses tensors of both devices as on a GPU, and flash attention is plain
torch. So everything that a run does on a GPU is done, by the same branches, and what was left on the CPU is noticed;
speed and memory are not a GPU's. Needs a torch that is built for CPUs alone. `environment` is that of a Python process
that finds it.
"""

import os
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

from tunewise.engine.native.build import compiler

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def build(folder: Path) -> Path:
    """The device as a library in `folder`, in some seconds."""
    libraries, library = Path(torch.__file__).parent / "lib", folder / "device.so"
    places = [f"-I{place}" for place in include_paths()]
    links = [f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"]
    command = [compiler() or "c++", "-O1", "-std=c++20", "-fPIC", "-shared", *places, str(HERE / "device.cpp")]
    done = subprocess.run([*command, "-o", str(library), *links], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


def environment(library: Path) -> dict[str, str]:
    """Of a process that finds the GPU."""
    told = {"PRETENDED_GPU": str(library), "TORCH_COMPILE_DISABLE": "1"}  # nothing is compiled for such a device
    paths = [str(HERE / "at_start"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **told, "PYTHONPATH": os.pathsep.join(paths)}
