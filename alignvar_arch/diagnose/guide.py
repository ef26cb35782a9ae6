"""diagnose.md: what lies in the folder, what one sees there, and how every figure is defined."""

FILES = {
    "masks.png": (
        "SCA's mask m of every scale, in colour over the generated picture, after the LR's absolute Laplacian; one row "
        "a subject, one colour scale for all masks, its range below.",
        "m = σ(MLP([e, s̄])) is the gate (1 + m) of a token, computed here over the generated history; a token map's "
        "place is a block of the picture."),
    "cumulative.png": (
        "The picture after each scale: the tokenizer's on the ground truth's tokens (GT tokens) in the first row, then "
        "one row a subject, between bicubic and GT.",
        "The cumulative latent f̂_k of scales 1 … k is decoded as if it were the last; PSNR under each."),
    "mask_strength.png": (
        "How far the gates of each scale are open.",
        "Mean and standard deviation of m over the tokens of a scale."),
    "attention.png": (
        "Where the queries of a scale look, by scale, against attention that looks everywhere alike (dashed).",
        "The network runs over the ground truth's tokens, the same history for all. Distance: Σ p·d over the scale's "
        "own keys, p renormalised over them, d Euclidean between token centres in sides of the picture; 3×3: Σ p over "
        "the own-scale keys at most one row and one column away; mass: share of p on all keys by source, the quality "
        "token counting as scale 1×1. Means over queries, heads and layers."),
    "attention_layers.png": (
        "The same distance and 3×3 mass for every layer; the first subject as it is, the others less the first.",
        "As above without the mean over layers; networks of another depth than the first are shown as they are."),
    "psnr.png": (
        "PSNR of the pictures in cumulative.png.",
        "BasicSR's PSNR on Y of the tile in 8 bits, as many pixels as the scale factor left out at each edge, in dB."),
    "latent.png": (
        "How far the latent is from GT's after each scale: left from the encoder's latent z, with what the GT's own "
        "tokens reach (dashed) and what no tokens at all leave (dotted); right from the cumulative latent of GT's "
        "tokens.",
        "Mean of (area(f̂_k, side_k) − area(z, side_k))² over elements, and the same with f̂_k of the GT's tokens in "
        "place of z: what HCC compares."),
    "planting.png": (
        "What becomes of an error planted at one scale: the latent's error against its size (about 2 is a latent that "
        "has nothing to do with the unplanted one), against the planted error (a network that does not react stays on "
        "the dashed line, below it errors are mended, above it they grow), and the tokens that change.",
        "At scale k {percent:g} % of the tokens (at least one) are exchanged for the nearest other code, at places "
        "that are the same for all, and later scales are generated from that history, chosen as the options say, with "
        "the same random numbers. With choice expected codes are no tokens: what the exchange of the nearest "
        "ones makes of a difference is added, and tokens are the nearest ones. MSE between the cumulative latents at "
        "full size over the mean square of the unplanted one, and over that MSE at scale k; share of a scale's "
        "tokens that differ."),
}
KEYS = {
    "sides": "sides of the token maps; lists by scale are in this order",
    "tile": "side of the pictures in pixels; `tile_top` and `tile_left` say where it lies in the LR, in LR pixels",
    "subjects": "what is diagnosed: `sca` at inference, `trained_sca` in training, `sampling` as in the options file",
    "overall, images": "the figures, means over images and of each image; the rest of this table",
    "psnr": "dB, by scale; `bicubic` a single number",
    "to_latent, to_tokens": "latent units², by scale; `nothing` is the error of an empty latent",
    "attention": "`distance` in sides of the picture, `window`, `own`, `coarser`, `lr` shares of 1; by layer and "
                 "scale, means over heads and queries",
    "uniform_attention": "`distance` and `window` of attention that looks everywhere alike, by scale",
    "masks": "`mean` and `spread` of m, from 0 to 1, by scale; `mask_maps` (images only): m itself, row by row",
    "planting": "by the planted scale's index, from that scale on: `mse` in latent units², `energy` the mean square of "
                "the unplanted latent, `changed` a share of 1, `carried` = mse / mse at the planted scale, "
                "`relative_mse` = mse / energy; overall, ratios are ratios of means",
    "failed": "images passed over, with the reason",
}


def guide(content: dict) -> str:
    """Return the text for the content of diagnose.json."""
    images, labels = content["images"], [subject["label"] for subject in content["subjects"]]
    cut = sum(not image["whole_image"] for image in images)
    lines = [
        "# Diagnosis", "",
        f"{len(images)} images, ×{content['scale']}, {content['tile']}×{content['tile']} pixels each"
        + (f"; of {cut} that are larger, the middle" if cut else "") + ".",
        f"Subjects: {'; '.join(labels)}; from {', '.join(dict.fromkeys(s['file'] for s in content['subjects']))}.",
        "Everything is generated as the options file samples, from its seed.",
        *([f"Passed over: {len(content['failed'])}, named in diagnose.json."] if content["failed"] else []), "",
        "`overall/` holds the means over images; every image has its own folder:", "",
        *(f"- [{image['name']}](<{image['name']}/>)" for image in images), "", "## Files", "",
        "| file | what one sees | definition |", "|---|---|---|",
    ]
    drawn = {name: text for name, text in FILES.items() if content["overall"]["masks"] or "mask" not in name}
    lines += [f"| {name} | {seen} | {definition.format(percent=content['plant_percent'])} |"
              for name, (seen, definition) in drawn.items()]
    lines += ["", "Sheets of pictures are of single images; every pixel of a picture is one of the sheet, or a square "
              "of them where the picture is small.", "", "## diagnose.json", "",
              "Every plotted number; null is a number that does not exist, such as the PSNR of equal pictures.", "",
              "| key | value |", "|---|---|", *(f"| {key} | {text} |" for key, text in KEYS.items())]
    return "\n".join(lines) + "\n"
