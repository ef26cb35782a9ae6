"""Token maps in a store: what the tokenizer makes of each crop, exactly, by whom, of what, and resumed after a kill."""
import hashlib
import json
import pickle
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import small
import torch

from alignvar_arch.archs.loading import load
from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.cli import main
from alignvar_arch.compat import lmdb_backend
from alignvar_arch.data.store import Store, maker, sources, token_maker, verify
from alignvar_arch.data.store.tokens import TokenCache, pack, unpack
from alignvar_arch.errors import UserError


def write_tokenizer(path: str, seed: int = 0, **changes) -> str:
    write_safetensors(path, small.tokenizer(seed, **changes).state_dict(),
                      {"network": json.dumps(small.tokenizer_options(**changes)), "scale": "4"})
    return path


def make_crops(folder: str, count: int, side: int = 16) -> None:
    rng = np.random.default_rng(0)
    Path(folder).mkdir()
    for number in range(count):
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        kinds = {1: image[..., 0], 2: image.astype(np.uint16) * 257 + 3}  # a grey one, one of 16 bits
        cv2.imwrite(f"{folder}/{number:03}.png", kinds.get(number, image))


@pytest.fixture(autouse=True)
def crops(tmp_path, monkeypatch):
    """Nineteen crops of the small tokenizer's size with their LR in gt.lmdb and gt_lq_x4.lmdb, and three tokenizers."""
    monkeypatch.chdir(tmp_path)
    make_crops("images", 19)
    maker.create(sources.find(["images"]), maker.Recipe(scale=4), Path("gt.lmdb"), bar=False)
    write_tokenizer("image.safetensors")
    write_tokenizer("residual.safetensors", target="residual")
    yield tmp_path
    lmdb_backend.close_all()


def tokens(*flags: str, tokenizer: str = "image.safetensors") -> int:
    return main(["lmdb", "tokens", "gt.lmdb", "--tokenizer", tokenizer, "-o", "tokens.lmdb", "--device", "cpu", *flags])


def picture(lmdb: str, key: str) -> torch.Tensor:
    """A crop as training sees it, made here by other means than the cache's: RGB (1, 3, H, W) in [0, 1]."""
    image = Store(lmdb).image(key)
    most = 65535 if image.dtype == np.uint16 else 255
    colour = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., ::-1]
    return torch.from_numpy((colour.astype(np.float32) / most).transpose(2, 0, 1).copy())[None]


@pytest.mark.parametrize("target", ["image", "residual"])
def test_cached_maps_are_the_tokenizers_own(target, capsys):
    assert tokens("--batch", "1", tokenizer=f"{target}.safetensors") == 0
    assert "token maps of 19 crops" in capsys.readouterr().out
    cache, tokenizer = TokenCache("tokens.lmdb"), load(f"{target}.safetensors")
    assert cache.keys == Store("gt.lmdb").keys and len(cache) == 19
    cache.check(tokenizer, Store("gt.lmdb"))
    seen = set()
    for key in cache.keys:
        lr = picture("gt_lq_x4.lmdb", key) if target == "residual" else None
        with torch.no_grad():
            wanted = tokenizer.encode(tokenizer.to_target(picture("gt.lmdb", key), lr)).maps
        found = cache.maps(key)
        assert [one.dtype for one in found] == [torch.int64] * 4
        assert all(torch.equal(one, other[0]) for one, other in zip(found, wanted, strict=True))
        seen |= set(torch.cat([one.flatten() for one in found]).tolist())
    assert len(seen) > 8  # a cache of one token everywhere would prove nothing


def test_a_batch_gives_the_same_cache_as_single_crops():
    assert tokens("--batch", "1") == 0
    Path("tokens.lmdb").rename("single.lmdb")
    assert tokens("--batch", "8") == 0
    one, many = TokenCache("single.lmdb"), TokenCache("tokens.lmdb")
    same = [torch.equal(a, b) for key in one.keys for a, b in zip(one.maps(key), many.maps(key), strict=True)]
    assert sum(same) >= 0.95 * len(same)  # convolutions of a batch may round otherwise, and a tie then falls otherwise


def test_the_cache_is_a_store_like_any_other():
    assert tokens() == 0
    assert main(["lmdb", "verify", "tokens.lmdb"]) == 0 and main(["lmdb", "info", "tokens.lmdb"]) == 0
    made_by = Store("tokens.lmdb").index["tokenizer"]
    assert made_by["file"] == "image.safetensors" and made_by["scales"] == list(small.SCALES)
    assert made_by["sha256"] == hashlib.sha256(Path("image.safetensors").read_bytes()).hexdigest()
    copy = pickle.loads(pickle.dumps(TokenCache("tokens.lmdb")))
    assert torch.equal(copy.maps("000")[3], TokenCache("tokens.lmdb").maps("000")[3])


@pytest.mark.parametrize("size", [24, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_tokens_of_any_codebook_survive(size):
    given = torch.tensor([0, 1, 23, size // 2, size - 1])
    image = pack(given, size)
    assert image.shape == (1 if size <= 1 << 16 else 2, 5) and torch.equal(unpack(image), given)


def test_it_goes_on_behind_the_last_commit(monkeypatch, capsys):
    assert tokens("--batch", "4") == 0
    Path("tokens.lmdb").rename("whole.lmdb")
    monkeypatch.setattr(token_maker, "_COMMIT", 4)
    encode, calls = token_maker.AlignVARTokenizer.encode, []

    def killed(self, x):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, x)

    monkeypatch.setattr(token_maker.AlignVARTokenizer, "encode", killed)
    assert tokens("--batch", "4") == 130 and "repeat the command" in capsys.readouterr().err
    assert not Path("tokens.lmdb").exists()
    assert tokens("--batch", "4") == 0 and "went on behind 8 of 19" in capsys.readouterr().err
    assert calls == [4, 4, 4, 4, 4, 3]
    for name in ("records.jsonl", "meta_info.txt"):
        assert Path("tokens.lmdb", name).read_bytes() == Path("whole.lmdb", name).read_bytes()
    assert main(["lmdb", "verify", "tokens.lmdb"]) == 0
    assert not [path for path in Path().iterdir() if path.name.endswith(".part")]


def test_a_cache_of_another_tokenizer_or_of_other_crops_is_refused():
    assert tokens() == 0
    cache = TokenCache("tokens.lmdb")
    with pytest.raises(UserError, match="another tokenizer, image.safetensors: its codebook"):
        cache.check(small.tokenizer(1))
    with pytest.raises(UserError, match="its target is image and not residual"):
        other = small.tokenizer(0, target="residual")
        other.quantize.load_state_dict(small.tokenizer(0).quantize.state_dict())
        cache.check(other)
    make_crops("others", 3)
    maker.create(sources.find(["others"]), maker.Recipe(), Path("others.lmdb"), bar=False)
    with pytest.raises(UserError, match="made of gt.lmdb, which is not what others.lmdb holds"):
        cache.check(small.tokenizer(0), Store("others.lmdb"))


def test_a_store_that_is_no_cache_and_a_damaged_record_are_named():
    with pytest.raises(UserError, match="gt.lmdb holds no token maps"):
        TokenCache("gt.lmdb")
    assert tokens() == 0
    cache = TokenCache("tokens.lmdb")
    with pytest.raises(UserError, match="has no key 'xyz'"):
        cache.maps("xyz")
    lmdb_backend.close_all()
    with lmdb.open("tokens.lmdb", map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"000", b"P5\n30 1\n65535\n" + b"\xff" * 60)
    with pytest.raises(UserError, match="'000' holds no tokens of this tokenizer"):
        TokenCache("tokens.lmdb").maps("000")
    assert verify.verify(Path("tokens.lmdb"), bar=False)[0].problems


def refusal(capsys, *arguments: str) -> str:
    """The one sentence of a command that makes nothing."""
    before = sorted(path.name for path in Path().iterdir())
    assert main(["lmdb", "tokens", *arguments, "-o", "tokens.lmdb"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and sorted(path.name for path in Path().iterdir()) == before
    return error


def test_what_cannot_be_encoded_is_one_sentence(capsys):
    make_crops("large", 2, side=20)
    maker.create(sources.find(["large"]), maker.Recipe(), Path("large.lmdb"), bar=False)
    write_safetensors("other.safetensors", small.transformer().state_dict(),
                      {"network": json.dumps(small.TRANSFORMER)})
    write_safetensors("bare.safetensors", small.tokenizer().state_dict())
    image, residual = ["--tokenizer", "image.safetensors"], ["--tokenizer", "residual.safetensors"]
    assert "large.lmdb: '000' is 20x20, but this tokenizer takes 16x16" in refusal(capsys, "large.lmdb", *image)
    assert "no LR store beside it" in refusal(capsys, "large.lmdb", *residual)
    assert "leave gt_lq_x4.lmdb out" in refusal(capsys, "gt.lmdb", *image, "--pair", "gt_lq_x4.lmdb")
    assert "no pair: 17 keys" in refusal(capsys, "gt.lmdb", *residual, "--pair", "large.lmdb")
    assert "takes 4x4" in refusal(capsys, "gt.lmdb", *residual, "--pair", "gt.lmdb")
    assert "holds a AlignVAR and no tokenizer" in refusal(capsys, "gt.lmdb", "--tokenizer", "other.safetensors")
    assert "does not say which network" in refusal(capsys, "gt.lmdb", "--tokenizer", "bare.safetensors")
    assert "no checkpoint at nowhere" in refusal(capsys, "gt.lmdb", "--tokenizer", "nowhere")
    Path("taken").mkdir()
    assert main(["lmdb", "tokens", "gt.lmdb", *image, "-o", "taken"]) == 2


def test_a_checkpoint_loads_with_its_own_averaged_weights(tmp_path):
    network, other = small.tokenizer(0), small.tokenizer(1)
    metadata = {"network": json.dumps(small.TOKENIZER)}
    torch.save({"params": other.state_dict(), "params_ema": network.half().state_dict(), "metadata": metadata}, "a.pth")
    found = load("a.pth")
    assert not found.training and all(torch.equal(value, network.state_dict()[name].float())
                                      for name, value in found.state_dict().items())
    torch.save({"params": {"x": torch.zeros(1)}, "metadata": metadata}, "b.pth")
    with pytest.raises(UserError, match="b.pth does not hold the network"):
        load("b.pth")
