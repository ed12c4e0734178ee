"""Give every figure a second variant for the dark theme: ground and ink change places, filled areas keep their colours.

    ground, text, pale bands       lightness turned over, hue kept (in Oklab): white becomes the page, ink becomes light
    coloured lines and points      nearly as they were
    bars, cells, maps, pictures    as they were drawn, with the text in them: what a lesson calls dark stays dark

A filled area is found by its 8 x 8 squares of pixels, all of them painted, which no line is; squares that nearly touch
belong together, and a group counts when enough of it is coloured or black, which a pale band is not.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

PAGE = (0x12, 0x12, 0x12)  # the theme's dark ground
SQUARE = 8  # pixels; the lines of a figure are at most four wide
SUFFIX = "_dark.webp"
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="([^"]*_images/[^"]+\.png)"[^>]*>')

_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                 [0.2119034982, 0.6806995451, 0.1073969566],
                 [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                 [1.9779984951, -2.4285922050, 0.4505937099],
                 [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", _two_images, priority=800)
    app.connect("build-finished", _write_variants)
    return {"parallel_read_safe": True}


def pair(body: str) -> str:
    """The page with two images for each figure, of which the theme shows one; a browser loads only that one."""
    return IMAGE.sub(_pair, body)


def dark_variant(figure: Image.Image) -> Image.Image:
    """The figure for a dark page."""
    figure = figure if figure.mode == "P" else figure.convert("RGB").quantize(256)
    colours = np.array(figure.getpalette("RGB")).reshape(-1, 3)  # (colours, 3)
    lab, index = _to_oklab(colours), np.asarray(figure)  # index (height, width)
    chroma, black = np.hypot(lab[:, 1], lab[:, 2]), lab[:, 0] < 0.35
    coloured = ((chroma > 0.045) & (lab[:, 0] < 0.9)) | black
    painted = colours.min(1) < 254
    kept = _areas(coloured[index], black[index], painted[index])
    return Image.fromarray(np.where(kept[..., None], colours[index], _turned(lab)[index]).astype(np.uint8))


def _areas(coloured: np.ndarray, black: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Where the picture stays as it is, (height, width)."""
    groups, count = ndimage.label(ndimage.binary_closing(np.pad(_squares(painted), 4), np.ones((5, 5)))[4:-4, 4:-4])
    share = ndimage.mean(_squares(coloured), groups, range(count + 1))
    size = np.bincount(groups.ravel(), minlength=count + 1)
    counted = (share > 0.12) & (size >= 3)
    counted[0] = False  # the ground
    near = ndimage.binary_fill_holes(counted[groups])
    near, photos = (_pixels(squares, painted.shape) for squares in (near, _photos(groups, _squares(black))))
    inside = near & ndimage.binary_fill_holes(painted)  # white letters on a bar stay white
    return photos | inside | (ndimage.maximum_filter(near, 2 * SQUARE + 1) & painted)


def _photos(groups: np.ndarray, black: np.ndarray) -> np.ndarray:
    """The rectangles of groups that are black to a third or more: pictures, kept to their edges."""
    kept = np.zeros(groups.shape, bool)
    for number, place in enumerate(ndimage.find_objects(groups), start=1):
        if black[place][groups[place] == number].mean() > 0.3:
            kept[place] = True
    return kept


def _pixels(squares: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask of squares as one of pixels."""
    pixels = np.kron(squares, np.ones((SQUARE, SQUARE), bool))
    return np.pad(pixels, [(0, full - part) for full, part in zip(shape, pixels.shape)])


def _squares(mask: np.ndarray) -> np.ndarray:
    """Which squares of the mask are full, (height / SQUARE, width / SQUARE)."""
    height, width = (side // SQUARE for side in mask.shape)
    cut = mask[: height * SQUARE, : width * SQUARE]
    return cut.reshape(height, SQUARE, width, SQUARE).mean((1, 3)) > 0.9


def _turned(lab: np.ndarray) -> np.ndarray:
    """Colours of the other theme: white becomes the page, ink nearly white, strong colours stay."""
    page = _to_oklab(np.array(PAGE))[0]
    strong = np.clip((np.hypot(lab[:, 1], lab[:, 2]) - 0.05) / 0.08, 0, 1)
    turned = lab.copy()
    turned[:, 0] = strong * lab[:, 0] + (1 - strong) * (page + np.minimum(1, (1 - lab[:, 0]) / 0.78) * (0.93 - page))
    return _to_rgb(turned)


def _to_oklab(rgb: np.ndarray) -> np.ndarray:
    share = np.asarray(rgb, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    linear = np.clip((lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T, 0, 1)
    return np.round(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def _pair(found: re.Match) -> str:
    tag, source = found[0], found[1]
    light, dark = (_with_class(tag, name) for name in ("only-light", "only-dark"))
    return light + dark.replace(source, source.removesuffix(".png") + SUFFIX)


def _with_class(tag: str, name: str) -> str:
    tag = (
        re.sub(r'\bclass="', f'class="{name} ', tag)
        if 'class="' in tag
        else tag.replace("<img", f'<img class="{name}"')
    )
    return tag.replace("<img", '<img loading="lazy"')


def _two_images(app, pagename, templatename, context, doctree) -> None:
    if "body" in context:
        context["body"] = pair(context["body"])


def _write_variants(app, error) -> None:
    for path in [] if error else sorted(Path(app.outdir, "_images").glob("*.png")):
        dark = path.with_name(path.stem + SUFFIX)
        if not dark.exists() or dark.stat().st_mtime < path.stat().st_mtime:
            dark_variant(Image.open(path)).save(dark, lossless=True, method=4)
