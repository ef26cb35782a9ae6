"""What BasicSR 1.4.2 needs to import and to work on today's stack, one reason a file.

Nothing is written to site-packages: stand-in modules go to `sys.modules`, and names are replaced where BasicSR's own
modules look them up. Each shim says when it can go.
"""

from alignvar_arch.compat import standins

_applied = False


def apply() -> None:
    """Mends BasicSR in this process; a second call does nothing."""
    global _applied
    if _applied:
        return
    standins.install()
    # These import basicsr, which works only once the stand-ins are in place.
    from alignvar_arch.compat import (
        cpu,
        folders,
        images,
        lmdb_backend,
        metrics,
        networks,
        parallel,
        rates,
        realesrgan,
        registries,
        training,
    )

    for part in (registries, lmdb_backend, folders, images, networks, rates, metrics, training, cpu, realesrgan,
                 parallel):
        part.install()
    _applied = True
