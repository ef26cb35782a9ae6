"""Published data sets as `basicsr lmdb create --preset NAME` takes them: where images lie, how many, what is made.

Layouts, counts and rules are in words in datasets/README.md, with what was and what was not verified. Nothing is
downloaded.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from alignvar_arch.compat.registries import nearest
from alignvar_arch.data.store import keys, sources
from alignvar_arch.data.store.sources import Source
from alignvar_arch.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published data set.

    Attributes:
        title: its name in messages.
        layouts: how it is known to be unpacked, the first that fits is taken: patterns of GT and of LR (None: LR is
            made) that a file's path ends with, where `*` stands for any part of one name and `{}` for the record's
            key; a pattern that begins with `./` means the very folder that was named.
        key: regular expression of `{}`.
        count: images that it has.
        crop: see maker.Recipe, as are the others.
        step: from one sub-image to the next.
        centre: whether only the square in the middle is taken.
        scale: of GT against LR.
    """

    title: str
    layouts: tuple[tuple[str, str | None], ...]
    key: str
    count: int
    crop: int | None = None
    step: int | None = None
    centre: bool = False
    scale: int = 4

    @property
    def recipe(self) -> dict:
        """What the command's own flags replace: crop, step, centre and scale of a maker.Recipe."""
        return {"crop": self.crop, "step": self.step, "centre": self.centre, "scale": self.scale}


def _benchmark(title: str, count: int, *folders: str) -> Preset:
    """A classical test set: its HR pictures, LR is made. Published with and without LR, under several names."""
    endings = ("GTmod12/{}.png", "HR/{}.png", "original/{}.*", "image_SRF_4/{}_SRF_4_HR.png")
    layouts = [(f"{folder}/{ending}", None) for folder in folders for ending in endings]
    layouts += [(f"{folder}_HR/{{}}.png", None) for folder in folders]
    return Preset(title=title, layouts=(*layouts, ("./{}.*", None)), key=r"[^/]+", count=count)


PRESETS = {
    "lsdir": Preset(title="LSDIR", layouts=(("*000/{}.png", None),), key=r"\d{7}", count=84991, crop=512, step=512),
    "ffhq10k": Preset(title="the first 10 000 of FFHQ", key=r"0\d{4}", count=10000, crop=512, step=512,
                      layouts=(("images1024x1024/*/{}.png", None), ("images1024x1024/{}.png", None))),
    "div2k": Preset(title="DIV2K's training set", layouts=(("DIV2K_train_HR/{}.png", None),), key=r"0\d{3}", count=800,
                    crop=480, step=240),
    "div2k100": Preset(title="DIV2K's validation set", layouts=(("DIV2K_valid_HR/{}.png", None),), key=r"0\d{3}",
                       count=100),
    "div2k_val": Preset(title="StableSR's DIV2K_V2_val", key=r"\d{4}_pch_\d{5}", count=3000, layouts=(
        ("gt/{}.png", "lq/{}.png"), ("test_HR/{}.png", "test_LR/{}.png"), ("HR/{}.png", "LR/{}.png"))),
    "realsr": Preset(title="RealSR's x4 test set", key=r"(?:Canon|Nikon)_\d+", count=100, crop=512, centre=True,
                     layouts=(("*/Test/4/{}_HR.png", "*/Test/4/{}_LR4.png"),
                              ("test_HR/{}_LR4.png", "test_LR/{}_LR4.png"),
                              ("HR/{}_LR4.png", "LR/{}_LR4.png"), ("gt/{}_LR4.png", "lq/{}_LR4.png"))),
    "drealsr": Preset(title="DRealSR's x4 test set", key=r"[^/]+", count=93, crop=512, centre=True, layouts=(
        ("Test_x4/test_HR/{}_x4.png", "Test_x4/test_LR/{}_x1.png"), ("test_HR/{}_x1.png", "test_LR/{}_x1.png"),
        ("HR/{}_x1.png", "LR/{}_x1.png"), ("gt/{}_x1.png", "lq/{}_x1.png"))),
    "set5": _benchmark("Set5", 5, "Set5"),
    "set14": _benchmark("Set14", 14, "Set14"),
    "bsd100": _benchmark("BSD100", 100, "BSD100", "BSDS100", "B100", "BSD100_SR"),
    "urban100": _benchmark("Urban100", 100, "Urban100", "Urban100_SR"),
    "manga109": _benchmark("Manga109", 109, "Manga109"),
}  # fmt: skip


def get(name: str) -> Preset:
    """Returns a preset.

    Raises:
        UserError: there is none of this name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset: there is no {name!r}{nearest(name, PRESETS)}; known are {', '.join(PRESETS)}.")
    return PRESETS[name]


def find(name: str, places: list[str], any_count: bool = False) -> list[Source]:
    """Lists the images of a preset, with their LR where the archive has it, sorted by key.

    Args:
        name: key of PRESETS.
        places: folders that the archive was unpacked into.
        any_count: take what is there, however many.

    Raises:
        UserError: there is no such preset or folder, no known layout fits, a GT or an LR has no partner, two files have
            one key, or their number is not the published one.
    """
    preset = get(name)
    roots = {Path(os.path.abspath(os.path.expanduser(place))) for place in places}
    paths = [Path(os.path.abspath(source.path)) for source in sources.find(places, "common")]
    shown = ", ".join(map(str, places))
    for gt_pattern, lq_pattern in preset.layouts:
        gt = _matching(paths, gt_pattern, preset.key, roots)
        if not gt:
            continue
        lq = _matching(paths, lq_pattern, preset.key, roots) if lq_pattern else {}
        alone = sorted(set(gt) ^ set(lq)) if lq_pattern else []
        if alone:
            raise UserError(f"--preset {name}: {shown} holds {len(gt)} images {gt_pattern} and {len(lq)} "
                            f"{lq_pattern}, of which {len(alone)} have no partner, for example {alone[0]}; unpack the "
                            "archive again.")
        if len(gt) != preset.count and not any_count:
            raise UserError(f"--preset {name}: {shown} holds {len(gt)} images {gt_pattern}, but {preset.title} has "
                            f"{preset.count}; unpack all of it, or take what is there with --any-count.")
        return [Source(keys.from_name(key), gt[key], lq.get(key)) for key in sorted(gt)]
    known = "; ".join(gt if lq is None else f"{gt} with {lq}" for gt, lq in preset.layouts)
    raise UserError(f"--preset {name}: {shown} is not laid out as {preset.title} is known to be when unpacked "
                    f"({known}); name its folder, or use create without --preset.")


def _matching(paths: list[Path], pattern: str, key: str, roots: set[Path]) -> dict[str, Path]:
    """The files that a layout's pattern fits, by their keys."""
    own_folder = pattern.startswith("./")
    parts = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.removeprefix("./").split("{}")]
    whole = re.compile(f".*/{parts[0]}(?P<key>{key}){parts[1]}", re.IGNORECASE)
    found: dict[str, Path] = {}
    for path in paths:
        if own_folder and path.parent not in roots:
            continue
        match = whole.fullmatch(path.as_posix())
        if match and found.setdefault(match["key"], path) != path:
            raise UserError(f"{found[match['key']]} and {path} are both {match['key']}; name the folder of one.")
    return found
