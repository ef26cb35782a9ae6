"""benchmarks/inference.py counts the work that the table of public checkpoints names, and writes what is asked for."""
import json
import sys
from pathlib import Path

import pytest
import small
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import inference  # noqa: E402
import stages  # noqa: E402

MAC, WIDTH, CODES = 2e9, 1536, 4096  # operations of a GMAC; depth 24
SPEEDUPS = {"guidance_on", "guidance_off", "steps_on", "steps_off", "decoder"}


def tiny(depth: int = 2, device: str = "cpu", dtype: torch.dtype = torch.float32) -> stages.Pair:
    net, tokenizer = small.transformer(depth=depth).to(device, dtype), small.tokenizer().to(device)
    if device == "cpu":
        net.make_tables()
    tokenizer.decoder.to(dtype)
    tokenizer.post_quant_conv.to(dtype)
    return stages.Pair(net, tokenizer, small.pictures(1)[1].to(device, dtype))


@pytest.fixture(scope="module")
def varsr() -> stages.Pair:
    """VARSR's transformer without its refiner, on the meta device."""
    return stages.paper(24, "meta", sca="off", condition_widths=(32, 128, 256, 512, 1536))


def test_work_at_depth_24_is_the_tables(varsr):
    ours = stages.count(stages.WAYS["guidance_off"], varsr)
    assert ours["condition"] / MAC == pytest.approx(73, abs=0.5)
    for side, expected in zip(varsr.net.schedule.sides[1:], (3, 7, 12, 27, 62, 132, 260, 487, 942), strict=True):
        head = side ** 2 * WIDTH * CODES / 1e9
        assert ours[f"scale_{side}"] / MAC == pytest.approx(expected + head, abs=0.7)
    # In the last block the prefix is neither queries nor output, projection and feed-forward included; of an
    # upsampling's nine products four are left.
    unread = 1024 * (9 * WIDTH ** 2 + 2 * 1025 * WIDTH) / 1e9
    upsampled = 5 * sum(width ** 2 * side ** 2 for width, side in ((640, 64), (320, 128), (320, 256), (160, 512))) / 1e9
    assert sum(ours.values()) / MAC == pytest.approx(3586 - unread - upsampled, rel=1e-3)


def test_the_plain_loops_work_at_depth_24_is_the_tables_and_what_it_wastes(varsr):
    plain = stages.count(stages.WAYS["plain"], varsr)
    logits, modulation = 2 * 1024 * WIDTH * CODES / 1e9, 2 * 10 * (24 * 6 + 2) * WIDTH ** 2 / 1e9
    assert plain["decode"] / MAC == pytest.approx(792, abs=1)
    assert sum(plain.values()) / MAC == pytest.approx(6306 + logits + modulation, rel=1e-3)


@pytest.mark.parametrize("name", stages.WAYS)
def test_counting_needs_no_memory(name):
    assert stages.count(stages.WAYS[name], tiny()) == stages.count(stages.WAYS[name], tiny(device="meta"))


@pytest.mark.parametrize("name", stages.WAYS)
@torch.no_grad()
def test_stages_are_all_of_a_picture(name):
    pair, way = tiny(), stages.WAYS[name]
    clock = stages.Clock(torch.device("cpu"))
    latent, seen = stages.generate(way, pair, clock.read)
    assert len(clock.milliseconds(seen)) == len(stages.names(pair)) == 1 + len(small.SCALES)
    made = way.generate(pair.net, pair.lr, pair.tokenizer.quantize, pair.net.structure(pair.lr), guidance=way.guidance)
    torch.testing.assert_close(latent, made.f_hat)
    assert not pair.net.word_embed._forward_pre_hooks and not pair.net.con_embedding._forward_hooks


def test_ratios_and_shares_are_taken_within_a_lap():
    def lap(slower: float) -> dict:
        times = {"plain": (30, 10), "guidance_on": (20, 5), "guidance_off": (5, 5)}
        ways = {name: {"ms": {"condition": slower * steps, "decode": slower * decode}, "peak_mib": 1}
                for name, (steps, decode) in times.items()}
        return {"matmul": 1e12 / slower, "linear": 2e12 / slower, **ways}

    flops = {name: {"condition": 6e9, "decode": 3e9} for name in stages.WAYS}
    found = inference.summary([lap(1), lap(7), lap(3)], flops, tokens=30)
    assert found["guidance_off"]["share_of_peak"] == pytest.approx(0.9)
    assert found["guidance_off"]["share_of_fastest"] == pytest.approx(0.45)
    assert found["guidance_off"]["total_ms"] == 30 and found["guidance_off"]["tokens_per_s"] == 1000
    assert found["speedup"] == pytest.approx({"guidance_on": 1.6, "guidance_off": 4, "steps_on": 1.5, "steps_off": 6,
                                              "decoder": 2})


def test_it_writes_what_is_asked_for(monkeypatch, tmp_path, capsys):
    path = tmp_path / "out.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(stages, "paper", tiny)
    monkeypatch.setattr(inference, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(inference, "OTHERS", {"tiny": lambda: torch.nn.Conv2d(3, 3, 3, padding=1)})
    monkeypatch.setattr(sys, "argv", ["inference.py", "--depths", "3", "2", "--json", str(path)])
    inference.main()
    made = json.loads(path.read_text())
    assert set(made["speedup"]) == SPEEDUPS and all(value > 0 for value in made["speedup"].values())
    assert made["share_of_peak"] > 0 and made["plain"]["share_of_peak"] > 0
    assert list(made["depths"]) == ["2", "3"] and made["speedup"] == made["depths"]["2"]["speedup"]
    ours = made["depths"]["3"]["guidance_off"]
    assert list(ours["ms"]) == ["condition", "scale_1", "scale_2", "scale_3", "scale_4", "decode"]
    assert {"total_ms", "tokens_per_s", "peak_mib", "tflop", "share_of_peak"} < set(ours)
    assert made["others"]["tiny"]["tflop"] > 0 and made["machine"] in capsys.readouterr().out


def test_what_only_a_gpu_is_asked_for_runs(monkeypatch):
    monkeypatch.setattr(inference, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(inference, "LIMITS", {16: 4, 48: 0})  # the second must be decoded in the smallest pieces
    found = inference.on_a_gpu(tiny(dtype=torch.bfloat16), tiny(device="meta", dtype=torch.bfloat16), 1)
    one = stages.count(stages.WAYS["plain"], tiny())
    assert found["batch_8"]["plain"]["tflop"] == pytest.approx(8 * sum(one.values()) / 1e12, rel=0.05)
    assert [made["decode_tile"] for made in found["memory"].values()] == [4, 8]
