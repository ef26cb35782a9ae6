"""Whether torch.compile works here: found out before a run begins, not in its first step."""
import time

import torch
from basicsr.utils import get_root_logger


def can_compile(device: torch.device) -> bool:
    """Return whether a function of one line compiles for ``device``; warn, with the reason, where it does not."""
    number = time.time_ns() % 2**31  # a function that no cache knows: what is asked for is the compiler
    torch.compiler.reset()
    try:
        torch.compile(lambda x: x + number)(torch.zeros(8, device=device))
    except Exception as error:  # no compiler, no Triton, no header: torch and its backends raise their own
        reason = " ".join(str(error).split("\n\n")[0].split())[:300]
        get_root_logger().warning(f"train.compile: goes on without, since torch.compile does not work here ({reason}); "
                                  "on a CPU it needs a C++ compiler, on a GPU Triton.")
        return False
    finally:
        torch.compiler.reset()
    return True
