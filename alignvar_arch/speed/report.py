"""The measurements in words."""

import statistics

NAMES = {"png_folder": "PNG folder, BasicSR", "basicsr_lmdb": "LMDB of PNGs, BasicSR", "store": "this store"}


def text(found: dict) -> str:
    """Returns tables of everything that bench.run has found."""
    parts = [_head(found), _loaders(found), _stages(found), _reading(found), _codecs(found), _create(found)]
    if "training" in found:
        parts.append(_training(found["training"]))
    parts.append(_ratios(found))
    return "\n\n".join(parts)


def _head(found: dict) -> str:
    material, machine = found["material"], found["machine"]
    sizes = " to ".join("x".join(map(str, material[name][1::-1])) for name in ("smallest", "largest"))
    note = "" if material["one_disk"] else "\nThe store and the temporary folder lie on different disks."
    return (f"{material['records']} of {material['of']} pairs of {material['gt']}, {sizes}; crops of "
            f"{material['gt_size']}x{material['gt_size']} and their LR (x{material['scale']}), batches of "
            f"{material['batch']}\n{machine['device']}; Python {machine['python']}, "
            + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + note)


def _loaders(found: dict) -> str:
    counts = list(found["loaders"])
    rows = [[name, *(f"{statistics.median(found['loaders'][count][key]):.0f}" for count in counts)]
            for key, name in NAMES.items()]  # fmt: skip
    speedups = found["speedup"]["loader_by_workers"]
    rows.append(["this store / PNG folder", *(f"{speedups[count]:.2f}" for count in counts)])
    return _table("Loader, images/s, by workers", ["", *map(str, counts)], rows)


def _stages(found: dict) -> str:
    stages = list(found["stages"]["store"])
    rows = [[NAMES[key], *(f"{1000 * times[stage]:.0f}" for stage in stages), f"{1000 * sum(times.values()):.0f}"]
            for key, times in found["stages"].items()]  # fmt: skip
    return _table("CPU time of a pair, µs, by stage", ["", *stages, "sum"], rows)


def _reading(found: dict) -> str:
    rows = []
    for key, name in NAMES.items():
        one = found["reading"][key]
        passes = [f"{one[which][unit]:.0f}" for which in ("first", "second") for unit in ("images_per_s", "mb_per_s")]
        rows.append([name, *passes, f"{one['whole']:.0f}", f"{one['crop']:.0f}"])
    dropped = all(one["dropped"] for one in found["reading"].values())
    first = "dropped what the system had in memory" if dropped else "could not drop what the system had in memory"
    head = ["", "1st images/s", "MB/s", "2nd images/s", "MB/s", "whole images/s", "crop images/s"]
    return _table(f"Reading GT in one process; the first pass {first}", head, rows)


def _codecs(found: dict) -> str:
    counts = list(found["loaders"])
    rows = [[codec if one["lossless"] else f"{codec} (lossy)", f"{one['size_ratio']:.2f}", f"{one['whole']:.0f}",
             f"{one['crop']:.0f}", *(f"{one['loader'][count]:.0f}" for count in counts)]
            for codec, one in found["codecs"].items()]  # fmt: skip
    return _table("Codecs, images/s; size against PNGs of the same pixels",
                  ["", "size", "whole", "crop", *(f"loader {count}" for count in counts)], rows)  # fmt: skip


def _create(found: dict) -> str:
    made = found["create"]
    count = made["workers"]
    rows = [[f"BasicSR, {count} processes", f"{made['basicsr']:.0f}", f"{made['basicsr_bytes'] / 1e6:.1f}"],
            ["BasicSR, one process", f"{made['basicsr_one_process']:.0f}", ""],
            [f"basicsr lmdb create, {count} threads, {made['codec']}", f"{made['store']:.0f}",
             f"{made['store_bytes'] / 1e6:.1f}"],
            ["the PNG files", "", f"{made['png_bytes'] / 1e6:.1f}"]]  # fmt: skip
    return _table("Making GT's and LR's LMDB from PNGs", ["", "pairs/s", "MB on disk"], rows)


def _training(step: dict) -> str:
    lines = [f"Training of {step['name']} on {step['device']}: {step['step_ms']:.0f} ms a step of {step['batch']} "
             f"images, {step['images_per_s']:.1f} images/s"]  # fmt: skip
    for name, one in step["loaders"].items():
        rates = ", ".join(f"{count}: {rate:.0f}" for count, rate in one["images_per_s"].items())
        enough = one["enough_workers"]
        verdict = ("the loader is the bottleneck, with any number of workers measured" if enough is None else
                   f"the loader is no bottleneck with {enough} workers or more")  # fmt: skip
        if 0 in one["images_per_s"]:
            verdict += f"; without, every step waits {1000 * step['batch'] / one['images_per_s'][0]:.0f} ms"
        lines.append(f"  {name}, images/s by workers: {rates}; {verdict}")
    return "\n".join(lines)


def _ratios(found: dict) -> str:
    speedup = found["speedup"]
    return (f"speedup.loader {speedup['loader']:.2f}   size_ratio {found['size_ratio']:.2f}   "
            f"speedup.create {speedup['create']:.2f}")  # fmt: skip


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([title, *(f"  {line}" for line in lines)])
