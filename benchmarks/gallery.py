"""Pictures for the documentation: middle crops at 1:1 of the first images of a `basicsr compare` report.

    basicsr compare -opt … --sets NAME=HR -o report/ && python benchmarks/gallery.py report/ docs/gallery.jpg

One row an image, in the order of file names; GT, bicubic and the models, one pixel of a result a pixel
of the picture.
"""
import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP, LINE = 6, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder of a report")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--first", type=int, default=4, help="so many images, by name")
    parser.add_argument("--side", type=int, default=224, help="of a crop, pixels")
    parser.add_argument("--models", nargs="+", metavar="MODEL[=LABEL]", help="these, in this order; all without it")
    args = parser.parse_args()
    report = json.loads((args.report / "report.json").read_text())
    images = sorted(report["images"], key=lambda image: (image["set"], image["image"]))[:args.first]
    known = [model["name"] for model in sorted(report["models"], key=lambda m: m["kind"] != "bicubic")]
    asked = [entry.partition("=") for entry in args.models or known]
    columns = {"GT": "GT", **{name: label or name for name, _, label in asked}}
    for name in columns:
        if name not in (*known, "GT"):
            parser.error(f"--models: {args.report} has no {name}, but {', '.join(known)}")
    step = args.side + GAP
    sheet = Image.new("RGB", (step * len(columns) - GAP, LINE + step * len(images) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, (name, label) in enumerate(columns.items()):
        draw.text((column * step, 1), label, fill=(20, 20, 20), font=font)
        for row, image in enumerate(images):
            place = image["gt"] if name == "GT" else image["pictures"][name]
            with Image.open(args.report / place) as picture:
                left, top = ((length - args.side) // 2 for length in picture.size)
                crop = picture.convert("RGB").crop((left, top, left + args.side, top + args.side))
            sheet.paste(crop, (column * step, LINE + row * step))
    sheet.save(args.output, quality=92)


if __name__ == "__main__":
    main()
