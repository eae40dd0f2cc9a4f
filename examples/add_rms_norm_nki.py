"""The NKI twin of the fused residual sum and RMS norm of `kernel.rs`. Written from the NKI language reference; not run on hardware yet."""
import nki
import nki.language as nl


@nki.jit
def add_rms_norm(residual, x, weight, eps):
    """residual, x: [T, E] with T a multiple of 128 or less than it; weight: [E]. Gives (sum, norm), each [T, E]."""
    rows, width = residual.shape
    total = nl.ndarray((rows, width), dtype=residual.dtype, buffer=nl.shared_hbm)
    normed = nl.ndarray((rows, width), dtype=residual.dtype, buffer=nl.shared_hbm)
    gain = nl.broadcast_to(nl.load(weight.reshape((1, width))), shape=(nl.tile_size.pmax, width))
    for start in range(0, rows, nl.tile_size.pmax):
        part = slice(start, min(start + nl.tile_size.pmax, rows))
        both = nl.add(nl.load(residual[part]), nl.load(x[part]))
        mean = nl.mean(nl.square(both), axis=1, keepdims=True)
        scaled = nl.multiply(both, nl.rsqrt(nl.add(mean, eps)))
        nl.store(total[part], both)
        nl.store(normed[part], nl.multiply(scaled, gain[: both.shape[0]]))
    return total, normed
