"""Upscaling with little memory: what is said that it takes, and what is done where there is less."""
import ctypes
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import runs
import small
import torch

from alignvar_arch import Upscaler
from alignvar_arch.archs.layers.conv import Upsample
from alignvar_arch.errors import UserError
from alignvar_arch.inference import memory
from alignvar_arch.inference.decode import decode_tiled


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried")])
def test_running_out_of_memory_halves_the_batch_and_the_picture_is_the_same(small_files, error, monkeypatch):
    upscaler = Upscaler.from_file(*small_files, device="cpu", top_k=1, batch=8)
    image, told, done = small.noise(12, 12, 3), [], []
    expected = upscaler(image)
    generate = upscaler.net.generate

    def greedy_for_memory(lr, *arguments, **named):
        if len(lr) > 2:
            raise error
        return generate(lr, *arguments, **named)

    monkeypatch.setattr(upscaler.net, "generate", greedy_for_memory)
    made = upscaler(image, done.append, told.append)
    assert told == ["4 tiles at once", "2 tiles at once"] and sum(done) == upscaler.tiles(12, 12)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_running_out_of_memory_in_decoding_takes_ever_smaller_pieces(small_files, monkeypatch):
    upscaler = Upscaler.from_file(*small_files, device="cpu", top_k=1)
    image, told = small.noise(40, 30, 3), []
    expected = upscaler(image)

    def greedy_for_memory(block, x):
        if max(x.shape[-2:]) > 35:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(block, x)

    forward = Upsample.forward
    monkeypatch.setattr(Upsample, "forward", greedy_for_memory)
    made = upscaler(image, less=told.append)
    assert told == ["pieces of 80 pixels", "pieces of 40 pixels"] and np.abs(made.astype(int) - expected).max() <= 1


def test_the_colours_are_no_reason_to_decode_again(small_files, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    upscaler, told = Upscaler.from_file(*small_files, device="cpu"), []
    monkeypatch.setattr("alignvar_arch.inference.upscaler.fix_colour", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        upscaler(small.noise(40, 30, 3), less=told.append)
    assert not told


def status(name: str) -> int:
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_of(work) -> int:
    """Bytes that a piece of work takes at its peak, by the kernel: a thread that looks may not get its turn.

    The least of some laps; what the libraries keep for themselves and what the heap holds free vary.
    """
    work()
    peaks = []
    for _ in range(5):
        ctypes.CDLL(None).malloc_trim(0)
        before = status("RssAnon")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        work()
        peaks.append(status("VmHWM") - status("VmRSS") + status("RssAnon") - before)
    return min(peaks)


PIXELS = [("off", 3), ("off", 4), ("off", 1), ("adain", 3), ("wavelet", 3)]


def measure_pixels(model: str, tokenizer: str, side: int) -> None:
    """Write what the pictures around the networks take; what the networks make is replaced. For a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignvar_arch.inference.upscaler.upscale_latent", lambda *_, **__: torch.zeros(1, 4, side, side))
        patch.setattr(memory, "pieces", lambda *_: [memory.Piece(8, 0)])
        patch.setattr("alignvar_arch.inference.picture.decode_tiled",
                      lambda *_: torch.zeros(1, 3, 4 * side, 4 * side).add_(0.1))
        peaks = []
        for colour, channels in PIXELS:
            upscaler = Upscaler.from_file(model, tokenizer, device="cpu", colour=colour)
            upscaler.tokenizer.target = "residual"  # which takes more
            image = small.noise(side, side, channels)
            peaks.append(peak_of(lambda: upscaler(image)))  # noqa: B023 (called at once)
    Path("measured.json").write_text(json.dumps(peaks))


def test_pixels_take_no_more_memory_than_is_said(small_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    side = 450
    assert runs.end(runs.start(measure_pixels, *small_files, side)) == 0, runs.said()
    said = memory.picture_bytes(4 * side, 4 * side)
    for peak, what in zip(json.loads(Path("measured.json").read_text()), PIXELS, strict=True):
        assert 0.3 * said < peak < 1.2 * said, what  # the heap is not the same twice


GUIDED = {"target": "residual", "ch": 64, "ch_mult": (1, 2), "num_res_blocks": 2, "guide_blocks": 6}


def measure_decoding(height: int, width: int, tile: int | None) -> None:
    """Write what decoding a latent takes at its peak, and what was said that it would; for a process."""
    tokenizer = small.tokenizer(**GUIDED)
    f_hat, lr = torch.randn(1, 4, height, width), torch.rand(1, 3, 2 * height, 2 * width)
    piece = memory.Piece(tile or max(height, width), 0)
    peak = peak_of(lambda: decode_tiled(tokenizer, f_hat, lr, piece.side, 0))
    Path("measured.json").write_text(json.dumps([peak, memory.decode_bytes(tokenizer, height, width, piece)]))


@pytest.mark.parametrize(("height", "width", "tile"), [(64, 64, None), (128, 96, None), (128, 128, 32)])
def test_decoding_by_the_lr_takes_no_more_memory_than_is_said(height, width, tile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.end(runs.start(measure_decoding, height, width, tile)) == 0, runs.said()
    peak, said = json.loads(Path("measured.json").read_text())
    assert 0.3 * said < peak < 1.2 * said  # the heap is not the same twice


def test_pieces_of_a_guided_decoder_are_said_to_take_what_they_see_and_no_more_than_the_picture():
    tokenizer = small.tokenizer(**GUIDED)
    halo = 2 * (tokenizer.decoder.reach + 1)
    whole, *less = (memory.decode_bytes(tokenizer, 64, 48, memory.Piece(side, 0)) for side in (64, 60, 32, 8))
    result, place = 3 * 4 * 64 * 48 * 8 ** 2, whole // (64 * 48) * memory.GUIDED_PIECE_MAPS // memory.GUIDED_MAPS
    assert less == [result + place * area for area in (64 * 48, min(32 + halo, 64) * 48, (8 + halo) ** 2)]
    assert memory.decode_bytes(tokenizer.bfloat16(), 64, 48, memory.Piece(64, 0)) < whole


def test_too_little_for_one_tile_is_a_sentence_and_other_errors_stay_themselves():
    def never(setting):
        raise MemoryError

    tried = []
    with pytest.raises(UserError, match="not enough memory even for the smallest piece"):
        memory.with_less(never, [4, 2, 1], tried.append)
    assert tried == [2, 1]

    def broken(setting):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        memory.with_less(broken, [4, 2, 1], tried.append)


def test_as_much_is_taken_at_once_as_fits():
    assert memory.batches(8, 1000, 100) == [8, 4, 2, 1] and memory.batches(8, 350, 100) == [3, 1]
    assert memory.batches(8, 1, 100) == [1]
    tokenizer = small.tokenizer()
    whole, *rest = memory.pieces(tokenizer, 64, 48, 2**40)
    assert whole.side == 64 and [piece.side for piece in rest] == [32, 16, 8]
    least = memory.decode_bytes(tokenizer, 64, 48, rest[-1]._replace(keep=0))
    for room in (least, 2 * least, 8 * least):
        found = memory.pieces(tokenizer, 64, 48, room)
        assert all(memory.decode_bytes(tokenizer, 64, 48, piece) <= room for piece in found[:-1])
    assert [piece.side for piece in memory.pieces(tokenizer, 64, 48, 0)] == [8]
    assert memory.pieces(tokenizer, 64, 48, 2**40, side=20)[0].side == 20


def test_what_is_needed_grows_with_everything():
    net, tokenizer = small.transformer(), small.tokenizer()
    plain, expected, drawn = (memory.tile_bytes(net, guided=False, choice=how) for how in memory.LOGITS)
    assert memory.tile_bytes(net, guided=True, choice="greedy") > plain and plain < expected < drawn
    assert memory.tile_bytes(net.bfloat16(), guided=False, choice="greedy") < plain
    upscaler = Upscaler(small.transformer(), tokenizer)
    assert upscaler.memory(100, 200) == upscaler.memory(200, 100) > upscaler.memory(100, 100)


def test_free_memory_is_what_the_shell_allows(monkeypatch):
    cpu = torch.device("cpu")
    most = memory.free(cpu)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 2**20, -1))
    assert 0 <= memory.free(cpu) <= 2**20 < most


@pytest.mark.parametrize(("folder", "limit", "usage", "cached"), [
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")])
def test_free_memory_is_what_the_container_allows_and_cached_files_make_room(tmp_path, folder, limit, usage, cached):
    assert memory.container(tmp_path) is None
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / "memory.stat").write_text(f"anon 5\n{cached} 300\nactive_file 7\n")
    (place / usage).write_text("900\n")
    (place / limit).write_text("1000\n")
    assert memory.container(tmp_path) == 400
    (place / limit).write_text("max\n")
    assert memory.container(tmp_path) is None
