"""Pictures of Pillow become JPEG or PNG, upright, with their transparency."""

from __future__ import annotations

import io

import PIL.Image
import pytest

from .conftest import refusal, sent_picture


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "JPEG") for mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")),
        *((mode, "PNG") for mode in ("LA", "La", "PA", "RGBA", "RGBa", "I;16")),
    ],
)
async def test_a_pil_image_of_any_mode_becomes_png_only_where_it_must(mode, kind):
    _, content = await sent_picture(PIL.Image.new(mode, (32, 24)))
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert (seen.format, seen.size) == (kind, (32, 24))


async def test_a_pil_image_that_is_opaque_all_over_is_a_jpeg():
    assert (await sent_picture(PIL.Image.new("RGBA", (8, 8), "red")))[0] == "image/jpeg"


async def test_transparency_survives():
    _, content = await sent_picture(PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert seen.getpixel((0, 0)) == (255, 0, 0, 128)


async def test_a_photograph_that_lies_on_its_side_is_sent_upright(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (32, 16)).save(tmp_path / "side.jpg", exif=exif)
    with PIL.Image.open(tmp_path / "side.jpg") as image:
        _, content = await sent_picture(image)
    with PIL.Image.open(io.BytesIO(content)) as seen:
        assert seen.size == (16, 32)


async def test_a_pil_image_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    PIL.Image.effect_noise((256, 256), 90).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with PIL.Image.open(path) as image:
        assert "must be a PIL image that can be saved" in await refusal(image)
    assert "convert it to L or RGB" in await refusal(PIL.Image.new("F", (8, 8)))
