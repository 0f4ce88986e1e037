"""How long a step takes on a device: its arithmetic, or its traffic, whichever is more, and the calls themselves."""

from tunewise.planning.devices import Device
from tunewise.planning.rehearsal import Rehearsed


def step_seconds(rehearsed: Rehearsed, device: Device) -> float | None:
    """Seconds of one forward and backward by the roofline of the device; None where only its memory is known.

        max(Σ flops / ceiling of their dtype, bytes moved / bandwidth) + operations · overhead

    Williams et al. 2009, doi:10.1145/1498765.1498785.
    """
    if not device.flops:
        return None
    products = sum(n / device.flops_of(dtype) for dtype, n in rehearsed.flops.items())
    traffic = rehearsed.bytes_moved / device.bytes_per_second
    return max(products, traffic) + rehearsed.n_operations * device.operation_seconds
