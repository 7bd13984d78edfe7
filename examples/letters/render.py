"""Renders capital letters from the fonts that matplotlib bundles, distorted and noisy, 32x32 greyscale.

The same seed and the same versions of Pillow and numpy give the same pictures. Test pictures use fonts
that no training picture uses.
"""

import math
import string
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

LETTERS = string.ascii_uppercase
SIZE = 32
OVERSAMPLING = 4  # glyphs are drawn and distorted at this multiple of SIZE, then averaged down
POINT_SIZE = 88

TRAINING_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBolIta",
    "cmb10",
    "cmr10",
    "cmti10",
    "cmtt10",
)
TEST_FONTS = ("DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralItalic", "cmss10")


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """images: uint8 [N, 32, 32]; labels: uint8 [N], index into LETTERS."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def render(fonts: tuple[str, ...], count: int, seed: int) -> LabelledImages:
    """count pictures; classes and fonts are as equally frequent as count allows, in shuffled order."""
    random = np.random.default_rng(seed)
    pairs = [(label, font) for font in fonts for label in range(len(LETTERS))]
    glyphs = [_glyph(font, LETTERS[label]) for label, font in pairs]
    chosen = random.permutation(np.arange(count) % len(pairs))
    images = np.stack([_photograph(glyphs[index], random) for index in chosen])
    labels = np.array([pairs[index][0] for index in chosen], np.uint8)
    return LabelledImages(images, labels)


def model_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [N, 32, 32] to the network's input: float32 [N, 1, 32, 32] in 0..1."""
    return images[:, None].astype(np.float32) / np.float32(255)


def _glyph(font: str, letter: str) -> Image.Image:
    """The letter in white on black, its ink centred."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    face = ImageFont.truetype(path, POINT_SIZE)
    left, top, right, bottom = face.getbbox(letter)
    side = SIZE * OVERSAMPLING
    image = Image.new("L", (side, side))
    position = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(image).text(position, letter, fill=255, font=face)
    return image


def _photograph(glyph: Image.Image, random: np.random.Generator) -> NDArray[np.uint8]:
    """One distorted, unevenly lit, blurred, noisy picture of the glyph: uint8 [32, 32]."""
    distorted = glyph.transform(
        glyph.size, Image.Transform.AFFINE, _affine(random, glyph.width), Image.Resampling.BICUBIC
    )
    _scratch(distorted, random)
    blurred = distorted.filter(ImageFilter.GaussianBlur(OVERSAMPLING * random.uniform(0.0, 1.1)))
    ink = np.asarray(blurred.reduce(OVERSAMPLING), np.float64) / 255
    contrast = random.uniform(0.3, 0.7) * random.choice((-1.0, 1.0))
    # The mean level leaves room for the contrast, so that clipping does not erase a letter.
    level = random.uniform(max(0.0, -contrast), min(1.0, 1.0 - contrast))
    slope_x, slope_y = random.uniform(-0.3, 0.3, size=2)
    axis = np.linspace(-0.5, 0.5, SIZE)
    background = level + slope_x * axis[None, :] + slope_y * axis[:, None]
    noise = random.normal(0.0, random.uniform(0.01, 0.09), size=ink.shape)
    picture = background + contrast * ink + noise
    return np.rint(255 * np.clip(picture, 0.0, 1.0)).astype(np.uint8)


def _affine(random: np.random.Generator, side: int) -> tuple[float, float, float, float, float, float]:
    """Pillow's map, output to input, of a random scale, shear, rotation and shift about the centre."""
    angle = math.radians(random.uniform(-20, 20))
    shear = random.uniform(-0.3, 0.3)
    scale_x, scale_y = random.uniform(0.8, 1.35, size=2)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = rotation @ np.array([[scale_x, shear * scale_y], [0.0, scale_y]])
    shift = random.uniform(-0.1, 0.1, size=2) * side
    inverse = np.linalg.inv(forward)
    centre = np.array([side / 2, side / 2])
    offset = centre - inverse @ (centre + shift)
    (a, b), (d, e) = inverse.tolist()
    c, f = offset.tolist()
    return a, b, c, d, e, f


def _scratch(image: Image.Image, random: np.random.Generator) -> None:
    """At most one straight stroke across the picture, of ink or of background."""
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(0, 2))):
        ends = random.uniform(0, image.width, size=4).tolist()
        draw.line(ends, fill=int(random.choice((0, 255))), width=int(random.integers(3, 8)))
