"""How well AlignVAR predicts the tokens of held-out photographs, against knowing how often each code occurs.

    python benchmarks/tokens.py --train FOLDER --test NAME=FOLDER [NAME=FOLDER …]

Prints, in nat a token: the cross-entropy of a per-scale unigram table counted on training photographs (add-one
smoothing), the model's, and the model's when it is given the LR of another crop; and how many codes are in use.
"""
import argparse
import json
from pathlib import Path

import common
import torch

from alignvar_arch.archs.alignvar_arch import AlignVAR
from alignvar_arch.archs.tokenizer_arch import AlignVARTokenizer
from alignvar_arch.metrics.tokens import scale_accuracy, scale_cross_entropy


def crops(folders: str, side: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return up to ``most`` non-overlapping GT crops of ``side`` a picture, from its middle outwards, and their LR.

    ``folders`` is HR or HR,LR.
    """
    gts, lrs, small = [], [], side // common.SCALE
    for _, gt, lr in common.pairs(*folders.split(",")):
        rows, columns = (range(0, length - side + 1, side) for length in gt.shape[-2:])
        places = [(y, x) for y in rows for x in columns]
        middle = ((gt.shape[-2] - side) / 2, (gt.shape[-1] - side) / 2)
        places.sort(key=lambda place: abs(place[0] - middle[0]) + abs(place[1] - middle[1]))
        for y, x in places[:most]:
            gts.append(gt[..., y:y + side, x:x + side])
            lrs.append(lr[..., y // 4:y // 4 + small, x // 4:x // 4 + small])
    return torch.cat(gts), torch.cat(lrs)


@torch.no_grad()
def tokenise(tokenizer: AlignVARTokenizer, gt: torch.Tensor, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (B, L) and the teacher-forced input."""
    tokens, teacher = [], []
    for some_gt, some_lr in zip(gt.split(common.BATCH), lr.split(common.BATCH), strict=True):
        encoded = tokenizer.encode(tokenizer.to_target(some_gt, some_lr))
        tokens.append(tokenizer.quantize.flatten(encoded.maps))
        teacher.append(tokenizer.quantize.teacher_input(encoded.cumulative))
    return torch.cat(tokens), torch.cat(teacher)


@torch.no_grad()
def predict(model: AlignVAR, lr: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, L, V) of teacher-forced tokens, from an LR (B, 3, h, w) that may be another one's."""
    logits = []
    for some, forced in zip(lr.split(common.BATCH), teacher.split(common.BATCH), strict=True):
        good = torch.zeros(len(some), dtype=torch.long)
        maps = model.structure(some, torch.Generator().manual_seed(0))
        logits.append(model(some, forced, good, maps).logits)
    return torch.cat(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="FOLDER", help="photographs that the unigram table counts")
    parser.add_argument("--test", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--tokenizer", default=common.TOKENIZER)
    parser.add_argument("--model", default=common.MODEL)
    parser.add_argument("--crops", type=int, default=8, help="most crops a photograph")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    model, tokenizer = common.networks(args.model, args.tokenizer)
    spans, codes = tokenizer.schedule.spans, tokenizer.quantize.codebook_size
    print(common.machine())
    counted, _ = tokenise(tokenizer, *crops(args.train, tokenizer.image_side, args.crops))
    counts = torch.stack([torch.bincount(counted[:, span].flatten(), minlength=codes) for span in spans]).float()
    unigram = ((counts + 1) / (counts + 1).sum(1, keepdim=True)).log()
    table = torch.cat([row.expand(span.stop - span.start, -1) for row, span in zip(unigram, spans, strict=True)])
    print(f"codes in use on {len(counted)} training crops: {int((counts.sum(0) > 0).sum())} of {codes}; by scale "
          + " ".join(str(int(n)) for n in (counts > 0).sum(1)))
    result = {"codes_used": int((counts.sum(0) > 0).sum()), "codes": codes}
    for name, folder in (entry.split("=", 1) for entry in args.test):
        gt, lr = crops(folder, tokenizer.image_side, args.crops)
        tokens, teacher = tokenise(tokenizer, gt, lr)
        rows = {"unigram": scale_cross_entropy(table.expand(len(tokens), -1, -1), tokens, spans)}
        # Half the list further: another picture's crop wherever no picture has half of all crops.
        for row, given in (("model", lr), ("other_lr", lr.roll(len(lr) // 2, 0))):
            logits = predict(model, given, teacher)
            rows[row] = scale_cross_entropy(logits, tokens, spans)
            if row == "model":
                accuracy = scale_accuracy(logits, tokens, spans)
        weights = torch.tensor(tokenizer.schedule.lengths) / tokenizer.schedule.tokens
        totals = {row: float((values * weights).sum()) for row, values in rows.items()}
        print(f"{name}: {len(gt)} crops; nat a token "
              + "  ".join(f"{row} {value:.3f}" for row, value in totals.items())
              + f"  below unigram {totals['unigram'] - totals['model']:+.3f}"
              + f"  worse with another LR {totals['other_lr'] - totals['model']:+.3f}")
        for row, values in [*rows.items(), ("accuracy", accuracy)]:
            print(f"  {row:<9}" + "".join(f"{value:8.3f}" for value in values.tolist()))
        result[name] = {**totals, "gain": totals["unigram"] - totals["model"],
                        "lr_gain": totals["other_lr"] - totals["model"]}
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    common.run(main)
