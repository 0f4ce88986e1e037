"""How long a step takes on a device: its products, then its traffic, and the calls that a processor makes for them."""

from tunewise.planning.devices import Device
from tunewise.planning.recorder import Computed
from tunewise.planning.rehearsal import Rehearsed


def step_seconds(rehearsed: Rehearsed | Computed, device: Device) -> float | None:
    """Seconds of one step; None where only the device's memory is known.

        Σ flops / ceiling of their dtype + bytes moved / bandwidth, and operations · overhead

    Unlike within one kernel (Williams et al. 2009, doi:10.1145/1498765.1498785), neither hides the other: operations
    run one after another, and most move bytes and multiply nothing. A GPU works while the calls are made; a CPU waits.
    """
    if not device.flops:
        return None
    products = sum(n / device.flops_of(dtype) for dtype, n in rehearsed.flops.items())
    work = products + rehearsed.bytes_moved / device.bytes_per_second
    calls = rehearsed.n_operations * device.operation_seconds
    return work + calls if device.type == "cpu" else max(work, calls)
