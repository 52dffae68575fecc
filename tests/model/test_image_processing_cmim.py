# SPDX-License-Identifier: Apache-2.0
"""Images in every form to pixels: exact numbers, what is refused, saving and loading."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from cmim_hf.model.image_processing_cmim import CMIMImageProcessor, image_array

GREY = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
# transformers 5.10 wants torchvision of who takes AutoImageProcessor from its root, without need.
WITHOUT_PACKAGE = """
import sys
sys.modules["cmim_hf"] = None  # importing it raises ImportError
import numpy as np
import torch
from transformers.models.auto.image_processing_auto import AutoImageProcessor
process = AutoImageProcessor.from_pretrained("saved", trust_remote_code=True)
process.save_pretrained("again")
torch.save(process(np.load("images.npy")).pixel_values, "pixels.pt")
"""


@pytest.fixture
def process():
    return CMIMImageProcessor(image_size=8)


FORMS = {
    "array": GREY,
    "array with channels": GREY[..., None],
    "arrays": list(GREY),
    "arrays with channels": list(GREY[..., None]),
    "PIL": [Image.fromarray(image) for image in GREY],
    "tensor": torch.from_numpy(GREY)[:, None],
    "tensors": list(torch.from_numpy(GREY)),
    "int64": GREY.astype(np.int64),
    "float64": GREY / 255,
    "float32 tensor": torch.from_numpy(GREY)[:, None] / 255,
    "a mixture": [GREY[0], Image.fromarray(GREY[1]), *torch.from_numpy(GREY[2:4] / 255), GREY[4]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(process, form):
    pixels = process(FORMS[form])["pixel_values"]
    assert pixels.dtype == torch.float32 and pixels.is_contiguous()
    expected = [[[[np.float32(v) / np.float32(255) for v in row] for row in x]] for x in GREY]
    assert torch.equal(pixels, torch.tensor(np.array(expected)))
    assert type(process(FORMS[form], return_tensors="np").pixel_values) is np.ndarray


def test_channels_come_first_in_tensors_and_last_in_arrays():
    process = CMIMImageProcessor(image_size=8, num_channels=3)
    expected = torch.from_numpy(COLOURS.transpose(0, 3, 1, 2) / np.float32(255)).float()
    for images in (
        COLOURS, list(COLOURS), torch.from_numpy(COLOURS).permute(0, 3, 1, 2),
        [Image.fromarray(image) for image in COLOURS],
    ):  # fmt: skip
        assert torch.equal(process(images).pixel_values, expected)
    for single in (COLOURS[0], Image.fromarray(COLOURS[0])):
        assert torch.equal(process(single).pixel_values, expected[:1])


def test_small_floats_do_not_gain_and_half_precision_is_taken(process):
    quarter = torch.full((1, 8, 8), 0.25)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(process(quarter.to(kind)).pixel_values[0], quarter)


def test_grey_and_colours_are_converted_as_pil_does():
    to_grey = CMIMImageProcessor(image_size=8, do_convert=True)
    pil = [Image.fromarray(image).convert("L") for image in COLOURS]
    expected = CMIMImageProcessor(image_size=8)(pil).pixel_values
    assert torch.equal(to_grey(COLOURS).pixel_values, expected)
    of_floats = to_grey(COLOURS / 255).pixel_values
    torch.testing.assert_close(of_floats, expected, rtol=0, atol=0.51 / 255)
    assert torch.equal(to_grey(np.ones((8, 8, 3))).pixel_values, torch.ones(1, 1, 8, 8))
    to_colour = CMIMImageProcessor(image_size=8, num_channels=3, do_convert=True)
    pixels = to_colour(GREY).pixel_values
    assert pixels.shape == (5, 3, 8, 8) and bool((pixels == pixels[:, :1]).all())
    both = to_colour([GREY[0], COLOURS[0]]).pixel_values
    assert torch.equal(both[0], pixels[0])


def test_images_are_resized_as_pil_does():
    process = CMIMImageProcessor(image_size=4, num_channels=3, do_resize=True)
    pil = [Image.fromarray(image).resize((4, 4), Image.Resampling.BILINEAR) for image in COLOURS]
    expected = torch.from_numpy(np.stack(pil).transpose(0, 3, 1, 2) / np.float32(255)).float()
    assert torch.equal(process(COLOURS).pixel_values, expected)
    torch.testing.assert_close(process(COLOURS / 255).pixel_values, expected, rtol=0, atol=1 / 255)
    mixed = process([COLOURS[0], COLOURS[1, :6], COLOURS[2, :4, :4]]).pixel_values
    as_it_is = COLOURS[2, :4, :4].transpose(2, 0, 1) / np.float32(255)
    assert torch.equal(mixed[0], expected[0]) and torch.equal(mixed[2], torch.from_numpy(as_it_is))
    assert process(np.ones((6, 6, 3))).pixel_values.max() <= 1


def test_pixels_above_the_threshold_become_one():
    process = CMIMImageProcessor(image_size=4, binarize=0.5)
    levels = np.full((4, 4), 127, np.uint8)
    levels[1, 2] = 128
    pixels = process(levels).pixel_values
    assert pixels.dtype == torch.float32 and pixels.sum() == 1 == pixels[0, 0, 1, 2]
    half = np.full((4, 4), 0.5)
    assert process(half).pixel_values.sum() == 0


def with_value(kind, value):
    images = GREY.astype(kind) if np.dtype(kind).kind == "i" else (GREY / 255).astype(kind)
    images[3, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "There are no images; give a PIL image"),
        (GREY[:0], ValueError, "There are no images"),
        (np.zeros((9, 8)), ValueError, "Image 0 has 9 x 8 pixels, not 8 x 8; do_resize=True"),
        ([GREY[0], GREY[1, :7]], ValueError, "Image 1 has 7 x 8 pixels"),
        (COLOURS, ValueError, r"Image 0 has 3 channels \(8 x 8 pixels\), not 1; do_convert=True"),
        ([GREY[0], np.zeros((8, 8, 4))], ValueError, "Image 1 has 4 channels .* give a PIL"),
        (torch.zeros(60, 8, 8), ValueError, "Image 0 has 60 channels"),
        (with_value(np.float32, np.nan), ValueError, "Image 3 holds NaN or infinite"),
        (list(with_value(np.float32, np.inf)), ValueError, "Image 3 holds NaN or infinite"),
        (GREY.astype(np.float32), ValueError, r"Image 0 has values .*: give uint8, or divide by"),
        (with_value(np.float64, 1.001), ValueError, r"Image 3 has values .* to 1.001; floats are"),
        (with_value(np.float32, -0.1), ValueError, "Image 3 has values from -0.1 to"),
        (with_value(np.int64, 256), ValueError, "Image 3 has values .* to 256; integers are"),
        ([*GREY, with_value(np.int32, -4)[3]], ValueError, "Image 5 has values from -4 to"),
        (GREY > 9, TypeError, "Image 0 is of type bool; give uint8, or floats"),
        (GREY.astype(complex), TypeError, "Image 0 is of type complex128"),
        (["a.png"], TypeError, "Image 0 is of type str; give a PIL image"),
        (None, TypeError, "Image 0 is of type NoneType"),
        (np.zeros(8), ValueError, r"Image 0 is an array of shape \(8,\)"),
        ([GREY], ValueError, "Image 0 has 8 channels"),
        ([GREY[0], GREY[None]], ValueError, r"Image 1 is an array of shape \(1, 5, 8, 8\)"),
        (Image.new("I;16", (8, 8)), ValueError, "Image 0 is of PIL's mode I;16: .* Convert it"),
        ([GREY[0], Image.new("RGBA", (8, 8))], ValueError, "Image 1 is of PIL's mode RGBA"),
    ],
)  # fmt: skip
def test_what_is_no_such_image_is_refused(process, images, error, message):
    with pytest.raises(error, match=message):
        process(images)


def test_an_empty_side_is_not_resized():
    with pytest.raises(ValueError, match="Image 0 has 0 x 8 pixels"):
        CMIMImageProcessor(image_size=8, do_resize=True)(np.zeros((2, 0, 8), np.uint8))


def test_modes_of_pil_that_lose_nothing():
    colour = Image.fromarray(COLOURS[0])
    opaque, see_through = (
        Image.merge("RGBA", [*colour.split(), Image.new("L", (8, 8), level)])
        for level in (255, 254)
    )
    assert np.array_equal(image_array(opaque, "a"), COLOURS[0])
    with pytest.raises(ValueError, match="^a is of PIL's mode RGBA: transparent"):
        image_array(see_through, "a")
    grey = Image.fromarray(GREY[0])
    opaque = Image.merge("LA", [grey, Image.new("L", (8, 8), 255)])
    assert np.array_equal(image_array(opaque, "a"), GREY[0])
    black_and_white = Image.fromarray(GREY[0] > 99)
    assert np.array_equal(image_array(black_and_white, "a"), 255 * (GREY[0] > 99))
    palette = colour.quantize(4)
    assert np.array_equal(image_array(palette, "a"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 3}, "`image_size` is a whole number from 4, not 3"),
        ({"image_size": 8.0}, "`image_size` is a whole number from 4, not 8.0"),
        ({"num_channels": 4}, "`num_channels` is 1 .grey. or 3"),
        ({"binarize": 1.0}, "`binarize` is a threshold"),
        ({"binarize": 128}, "`binarize` is a threshold"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        CMIMImageProcessor(**settings)


def test_what_is_saved_comes_back(tmp_path):
    process = CMIMImageProcessor(8, num_channels=3, do_resize=True, do_convert=True, binarize=0.25)
    process.save_pretrained(tmp_path)
    again = CMIMImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == process.to_dict()
    assert torch.equal(again(GREY).pixel_values, process(GREY).pixel_values)
    assert CMIMImageProcessor.from_pretrained(tmp_path, binarize=0.5).binarize == 0.5


def test_without_the_package_pixels_are_equal(tmp_path):
    CMIMImageProcessor(8, num_channels=3).save_pretrained(tmp_path / "saved")
    np.save(tmp_path / "images.npy", COLOURS)
    run = [sys.executable, "-c", WITHOUT_PACKAGE]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    expected = CMIMImageProcessor(8, num_channels=3)(COLOURS).pixel_values
    assert torch.equal(torch.load(tmp_path / "pixels.pt"), expected)
    files = {"preprocessor_config.json", "image_processing_cmim.py"}
    for name in ("saved", "again"):
        assert {path.name for path in (tmp_path / name).iterdir()} == files
        auto = AutoImageProcessor.from_pretrained(tmp_path / name, trust_remote_code=True)
        assert torch.equal(auto(COLOURS).pixel_values, expected)
