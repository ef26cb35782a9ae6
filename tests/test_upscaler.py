"""`Upscaler`: any picture in and out, the same picture again, and what it refuses."""
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import yaml

from alignvar_arch import Upscaler
from alignvar_arch.archs.loading import load
from alignvar_arch.checkpoints import write_safetensors
from alignvar_arch.checkpoints.recognise import recognise
from alignvar_arch.errors import UserError
from alignvar_arch.inference.pairing import MODEL, TOKENIZER
from alignvar_arch.inference.picture import picture
from alignvar_arch.inference.upscaler import PRECISIONS, fill_transparent


@pytest.fixture
def upscaler(small_files) -> Upscaler:
    return Upscaler.from_file(*small_files, device="cpu")


def directly(net, tokenizer, image: np.ndarray, **settings) -> np.ndarray:
    """What the networks make of an image without ``Upscaler``, by its defaults."""
    lr = torch.tensor(image).permute(2, 0, 1)[None] / 255
    made = picture(net, tokenizer, lr, **{"choice": "expected", **settings})
    return made[0].permute(1, 2, 0).mul(255).round().numpy()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 50), (13, 7), (17, 16)])
def test_any_size(upscaler, size):
    done = []
    made = upscaler(small.noise(*size, 3), done.append)
    assert made.shape == (4 * size[0], 4 * size[1], 3) and made.dtype == np.uint8
    assert sum(done) == upscaler.tiles(*size)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 4), ((3, 500), 4), ((127, 129), 4), ((512, 1), 4),
                                             ((1000, 700), 2)])
def test_sizes_of_pictures(size, scale):
    """With tiles of 64 pixels and more; the large one by a factor of two, as four takes ten seconds."""
    tokenizer = small.tokenizer(ch_mult=(1, 1, 1, 1, 1), num_res_blocks=0, scales=(1, 4, 16))
    upscaler = Upscaler(small.transformer(depth=1, scales=(1, 4, 16)), tokenizer, scale=scale, top_k=1)
    made = upscaler(small.noise(*size, 3))
    assert made.shape == (size[0] * scale, size[1] * scale, 3)
    assert all(corner.std() > 0 for corner in (made[:4, :4], made[:4, -4:], made[-4:, :4], made[-4:, -4:]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 3), (6, 5, 4)])
def test_numpy_comes_back_as_it_went_in(upscaler, dtype, shape):
    made = upscaler(small.noise(*shape, dtype=dtype))
    assert made.dtype == dtype and made.shape == (24, 20, *shape[2:])


def test_numpy_and_torch_are_the_same_picture(upscaler):
    image = small.noise(6, 5, 4, dtype=np.uint16)
    tensor = torch.from_numpy(image.astype(np.float64) / 65535).permute(2, 0, 1)[None]
    made = upscaler(tensor)
    assert made.dtype == torch.float64 and made.min() >= 0 and made.max() <= 1
    expected = (made[0] * 65535).round().permute(1, 2, 0).numpy()
    assert np.abs(upscaler(image).astype(float) - expected).max() <= 1
    assert upscaler(tensor[:, :1].float()).shape == (1, 1, 24, 20)


def test_the_same_picture_whatever_came_before_and_another_for_another_seed_where_it_draws(upscaler, small_files):
    image, draws = small.noise(9, 9, 3), {"device": "cpu", "choice": "sample", "top_k": 0}
    for own in (upscaler, Upscaler.from_file(*small_files, **draws)):
        first = own(image)
        own(small.noise(4, 4, 3))
        np.testing.assert_array_equal(own(image), first)
    assert (Upscaler.from_file(*small_files, **draws, seed=1)(image) != first).any()


def test_a_batch_of_tiles_is_as_one_by_one(small_files):
    image = small.noise(11, 10, 3)
    together, alone = (Upscaler.from_file(*small_files, device="cpu", top_k=1, batch=batch)(image) for batch in (8, 1))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_grey_is_the_grey_of_the_colours(upscaler):
    grey = small.noise(6, 5, 1)
    expected = upscaler(grey.repeat(3, 2)) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(upscaler(grey)[..., 0] - expected).max() <= 1


def test_colours_that_nobody_sees_do_not_show(upscaler):
    one = small.noise(6, 5, 4)
    one[..., 3] = 255 * (small.noise(6, 5) > 99)
    other = one.copy()
    other[one[..., 3] == 0] = (0, 255, 0, 0)
    np.testing.assert_array_equal(upscaler(one), upscaler(other))


def test_transparent_pixels_take_the_nearest_colour():
    colour = torch.arange(5.0).view(1, 1, 1, 5)
    alpha = torch.tensor([0.0, 0, 0.5, 0, 1]).view(1, 1, 1, 5)
    assert fill_transparent(colour, alpha).flatten().tolist()[:3] == [2, 2, 2]
    torch.testing.assert_close(fill_transparent(colour, 0 * alpha), colour)


def test_defaults_are_those_of_the_shipped_options():
    val = yaml.safe_load((Path(__file__).parent.parent / "options/alignvar_x4_test.yml").read_text())["val"]
    defaults = Upscaler.__init__.__kwdefaults__
    assert {key: val[key] for key in ("guidance", "choice", "top_k", "top_p", "temperature")} == {
        key: defaults[key] for key in ("guidance", "choice", "top_k", "top_p", "temperature")}
    assert defaults["seed"] == val["sample_seed"]


def test_the_shipped_model_finds_its_tokenizer():
    image = small.noise(40, 6, 3)  # two tiles
    expected = directly(load(MODEL), load(TOKENIZER), image)
    assert np.abs(Upscaler.from_file(device="cpu")(image).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("image", "error", "text"), [
    ([[1]], TypeError, "not list"), (np.zeros((4, 4, 3)), TypeError, "not float64"),
    (np.zeros((4, 4, 5), np.uint8), ValueError, r"not \(4, 4, 5\)"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, r"not \(0, 4, 3\)"),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "not torch.uint8"),
    (torch.zeros(3, 4, 4), ValueError, r"not \(3, 4, 4\)"),
    (torch.full((1, 3, 4, 4), 2.0), ValueError, "from 2 to 2"),
    (torch.full((1, 3, 4, 4), torch.nan), ValueError, "from nan to nan")])
def test_what_is_no_image_is_refused(upscaler, image, error, text):
    with pytest.raises(error, match=text):
        upscaler(image)


@pytest.mark.parametrize(("settings", "text"), [
    ({"top_p": 0.0}, "top_p is 0.0"), ({"temperature": 0.0}, "temperature is 0.0"), ({"top_k": -1}, "top_k is -1"),
    ({"choice": "mode"}, "choice is 'mode'"),
    ({"guidance": 6.0}, "without bad-quality samples"), ({"precision": "int8"}, "one of fp32, bf16, fp16"),
    ({"colour": "sepia"}, "one of off, wavelet, adain"), ({"tile": 0}, "tile is 0"), ({"batch": 0}, "batch is 0"),
    ({"device": "cuda:99"}, "no device cuda:99"), ({"device": "nonsense"}, "no device nonsense")])
def test_settings_out_of_range_are_refused(small_files, settings, text):
    with pytest.raises(UserError, match=text):
        Upscaler.from_file(*small_files, **{"device": "cpu", **settings})


def test_guidance_needs_a_model_that_saw_bad_quality(small_files, tmp_path):
    path, found = str(tmp_path / "guided.safetensors"), recognise(small_files[0])
    write_safetensors(path, found.state, {**found.metadata, "bad_quality_rate": "0.1"})
    guided = Upscaler.from_file(path, small_files[1], device="cpu", guidance=6.0)(small.noise(5, 5, 3))
    assert (guided != Upscaler.from_file(path, small_files[1], device="cpu")(small.noise(5, 5, 3))).any()


def test_models_and_tokenizers_that_do_not_belong_together(small_files, tmp_path):
    model, tokenizer = small_files
    with pytest.raises(UserError, match="another tokenizer than alignvar_arch:weights"):
        Upscaler.from_file(model)
    with pytest.raises(UserError, match="another tokenizer than"):
        Upscaler.from_file(None, tokenizer)
    with pytest.raises(UserError, match="AlignVAR's transformer and no tokenizer"):
        Upscaler.from_file(model, model)
    with pytest.raises(UserError, match="AlignVAR's tokenizer and no transformer"):
        Upscaler.from_file(tokenizer, tokenizer)
    silent, found = str(tmp_path / "silent.safetensors"), recognise(model)
    write_safetensors(silent, found.state, {key: found.metadata[key] for key in ("network", "scale")})
    with pytest.raises(UserError, match="does not say which tokenizer"):
        Upscaler.from_file(silent)
    assert Upscaler.from_file(silent, tokenizer, device="cpu")(small.noise(2, 2, 3)).shape == (8, 8, 3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_are_networks_of_other_dtypes(small_files, precision):
    upscaler = Upscaler.from_file(*small_files, device="cpu", precision=precision, top_k=1)
    net, tokenizer = load(small_files[0], dtype=PRECISIONS[precision]), load(small_files[1])
    tokenizer.decoder.to(PRECISIONS[precision])
    tokenizer.post_quant_conv.to(PRECISIONS[precision])
    assert {value.dtype for value in upscaler.net.parameters()} == {PRECISIONS[precision]}
    expected = directly(net, tokenizer, small.noise(8, 8, 3), top_k=1)
    assert np.abs(upscaler(small.noise(8, 8, 3)).astype(int) - expected).max() <= 1


def test_a_residual_tokenizer_goes_with_its_own_scale_only():
    with pytest.raises(UserError, match="residual, which makes pictures 4 times as large, and the scale is 2"):
        Upscaler(small.transformer(), small.tokenizer(target="residual"), scale=2)
