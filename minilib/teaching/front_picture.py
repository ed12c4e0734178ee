"""python -m minilib.teaching.front_picture: draw the memory wall of the front page from bytes measured here and now.

    lines     predicted bytes (`minilib.teaching.memory`), d = 512, fp32, 1,024 to 262,144 pairs
    points    measured bytes, each in a fresh process (`minilib.teaching.peak`), for the batches that take seconds

The picture and the measurements behind it are kept side by side, memory_wall.png and memory_wall.json, so that a reader
can check the one against the other; the README and the landing page of the book show the same file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from minilib.teaching import memory, plots

DIM = 512
BATCHES = [2**k for k in range(10, 19)]
LIMIT = 16e9  # bytes: a laptop
MEASURED = {"dense": (1_024, 2_048, 4_096, 8_192), "tiled": (1_024, 2_048, 4_096, 8_192, 16_384)}


def measure(batches: Mapping[str, Sequence[int]] = MEASURED) -> dict[str, list[tuple[int, int]]]:
    """Extra bytes of one loss, forward and backward: `{"dense": [(batch, bytes), ...], "tiled": [...]}`."""
    todo = tqdm([(name, batch) for name in batches for batch in batches[name]], desc="processes")
    measured = {name: [] for name in batches}
    for name, batch in todo:
        measured[name].append((batch, memory.measure_loss_peak(batch, DIM, name)))
    return measured


def draw(measured: Mapping[str, Sequence[tuple[int, float]]] | None = None) -> Figure:
    """The memory wall of the front page, with the measured points if there are any."""
    dense, tiled = ([predicted(name, batch) for batch in BATCHES] for name in ("dense", "tiled"))
    return plots.memory_wall(BATCHES, dense, tiled, LIMIT, measured=measured)


def predicted(backend: str, batch: int) -> int:
    """Bytes that a point should show if the prediction is right."""
    return memory.predict_bytes(batch, DIM, backend=backend)["total"]


def main(folder: Path = Path("book/_static")) -> None:
    """Measure, draw, and write both files; prints measured over predicted and the alt text that pages should use."""
    measured = measure()
    figure = draw(measured)
    (folder / "memory_wall.png").write_bytes(plots.to_png(figure))
    (folder / "memory_wall.json").write_text(json.dumps({"dim": DIM, "bytes": measured}, indent=1) + "\n")
    for name, points in measured.items():
        ratios = [size / predicted(name, batch) for batch, size in points]
        print(f"{name}: measured over predicted {min(ratios):.2f} to {max(ratios):.2f}")
    print(figure.alt_text)


if __name__ == "__main__":
    main()
