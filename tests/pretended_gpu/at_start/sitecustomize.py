"""On the way of a Python process that is to find a GPU: loads the pretended one, and tells `torch.cuda` of it."""

import ctypes
import os
import sys
from types import SimpleNamespace

device = ctypes.CDLL(os.environ["PRETENDED_GPU"])  # before torch, which asks once whether there is a GPU

import torch  # noqa: E402

TOTAL = 16 << 30
told = torch.ops.pretended_gpu
device.begin()
TELLS = {
    "_lazy_init": lambda: None,
    # of bitsandbytes there are no kernels for it: those for the CPU run
    "is_available": lambda: not sys._getframe(1).f_globals["__name__"].startswith("bitsandbytes"),
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "_exchange_device": lambda device: 0,
    "_maybe_exchange_device": lambda device: 0,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "get_device_name": lambda device=None: "a pretended GPU",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: SimpleNamespace(total_memory=TOTAL, multi_processor_count=1),
    "is_bf16_supported": lambda including_emulation=True: True,
    "mem_get_info": lambda device=None: (TOTAL - told.memory()[0], TOTAL),
    "memory_allocated": lambda device=None: told.memory()[0],
    "max_memory_allocated": lambda device=None: told.memory()[1],
    "reset_peak_memory_stats": lambda device=None: told.forget_most(),
    "get_rng_state": lambda device=None: told.get_state(),
    "set_rng_state": lambda state, device=None: told.set_state(state),
    "manual_seed": told.seed,
    "manual_seed_all": told.seed,
}
for name, function in TELLS.items():
    assert hasattr(torch.cuda, name), name
    setattr(torch.cuda, name, function)

import flash  # noqa: E402, F401


def clone(storage):
    """Of a storage on the device: torch's own asks for a build with CUDA."""
    copied = torch.empty(storage.nbytes(), dtype=torch.uint8, device=storage.device)
    copied.copy_(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
    return copied.untyped_storage()


torch.UntypedStorage.clone = clone
torch._C._cuda_getCurrentRawStream = lambda device: 0  # triton's way to it, which is looked up at import
