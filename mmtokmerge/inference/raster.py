"""Pictures read and written window by window, with their georeference, by rasterio.

A TIFF's results are TIFFs of the same place on earth. Of a picture in tiles no more is held than a
tile, and the blocks that the file's format reads at once: whole rows in PNG and JPEG.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.reporting.files import cannot_write, partial_file

TIFF = (".tif", ".tiff")
CACHE = 2**26
"""Bytes of blocks that GDAL holds at most; by itself it takes a twentieth of the machine."""
BLOCK = 256
"""Side of the blocks of a written TIFF in pixels."""
ORIENTATION = 0x0112
INSTALL = "pip install 'mmtokmerge[geo]'"


def is_installed() -> bool:
    """Whether rasterio is there."""
    return importlib.util.find_spec("rasterio") is not None


def is_tiff(path: str) -> bool:
    """Whether a file's name says that it is a TIFF."""
    return path.lower().endswith(TIFF)


def is_turned(path: str) -> bool:
    """Whether EXIF data turns a picture, which GDAL does not look at."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only its first bytes are read
    try:
        with Image.open(path) as picture:
            return picture.getexif().get(ORIENTATION, 1) != 1
    except (OSError, ValueError, SyntaxError):
        return False
    finally:
        Image.MAX_IMAGE_PIXELS = limit


class Raster:
    """A picture file that is read window by window, as bytes, blue first.

    Args:
        path: Any format that GDAL reads; closed by ``with``.

    Raises:
        UnreadableInput: It is cut off or no picture.
    """

    def __init__(self, path: str) -> None:
        import rasterio

        self.path = path
        self._stack = contextlib.ExitStack()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pictures without georeference
                self._stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
                self.file = self._stack.enter_context(rasterio.open(path))
        except rasterio.errors.RasterioError as error:
            self._stack.close()
            raise UnreadableInput(f"{path} is cut off or no picture.") from error
        self.shape: tuple[int, int] = self.file.shape
        self._bands = [1, 2, 3] if self.file.count >= 3 else [1]
        self._colours = self._palette()
        self._range: tuple[float, float] | None = None

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """A window ``(h, w, 3)`` uint8 BGR; depths above 8 bits are stretched over the picture.

        Raises:
            UnreadableInput: The file ends before it.
        """
        pixels = self._pixels(rows, columns)
        if self._colours is not None:
            return self._colours[pixels[0].astype(np.int64)]
        if pixels.dtype != np.uint8:
            low, high = self._range or self._find_range()
            self._range = (low, high)
            scaled = np.nan_to_num(pixels.astype(np.float32), nan=low) - low
            pixels = (scaled * (255.0 / max(high - low, 1e-6))).clip(0, 255).round()
            pixels = pixels.astype(np.uint8)
        if len(pixels) == 1:
            pixels = pixels.repeat(3, axis=0)
        return np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0))

    def unknown(self, rows: slice, columns: slice) -> np.ndarray | None:
        """``(h, w)`` bool, where the file says that it has no data; None where it never says so."""
        if self.file.nodata is None:
            return None
        mask: np.ndarray = self._window(self.file.dataset_mask, rows, columns) == 0
        return mask

    def _pixels(self, rows: slice, columns: slice) -> np.ndarray:
        pixels: np.ndarray = self._window(self.file.read, rows, columns, indexes=self._bands)
        return pixels

    def _window(self, read: Any, rows: slice, columns: slice, **options: Any) -> Any:
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        window = Window.from_slices(rows, columns)
        try:
            return read(window=window, **options)
        except RasterioError as error:
            raise UnreadableInput(f"{self.path} is cut off or no picture.") from error

    def _palette(self) -> np.ndarray | None:
        """``(256, 3)`` BGR where the file's numbers are places in a palette."""
        from rasterio.enums import ColorInterp

        if self.file.colorinterp[0] != ColorInterp.palette:
            return None
        colours = np.zeros((2 ** (8 * np.dtype(self.file.dtypes[0]).itemsize), 3), np.uint8)
        for place, colour in self.file.colormap(1).items():
            colours[place] = colour[2::-1]
        return colours

    def _find_range(self) -> tuple[float, float]:
        """The least and the most finite value of the bands, read once, without what is no data."""
        low, high = np.inf, -np.inf
        for top in range(0, self.shape[0], BLOCK):
            rows = slice(top, min(top + BLOCK, self.shape[0]))
            for left in range(0, self.shape[1], 64 * BLOCK):
                columns = slice(left, min(left + 64 * BLOCK, self.shape[1]))
                values = self._pixels(rows, columns)
                known = np.isfinite(values)
                unknown = self.unknown(rows, columns)
                if unknown is not None:
                    known &= ~unknown
                if known.any():
                    found = values[known]
                    low, high = min(low, float(found.min())), max(high, float(found.max()))
        return (low, high) if low <= high else (0.0, 1.0)


Write = Callable[[slice, slice, np.ndarray], None]


@contextlib.contextmanager
def written(
    path: Path, like: Raster, num_bands: int, kind: type, nodata: int | None = None
) -> Iterator[Write]:
    """A TIFF or PNG of a raster's size, to be written window by window; whole or not there.

    A TIFF has the raster's georeference.

    Args:
        path: Its suffix names the format.
        like: Whose size and place on earth it has.
        num_bands: 1, or 3 for colours.
        kind: ``np.uint8`` or ``np.uint16``.
        nodata: What a TIFF says stands for pixels without data.

    Yields:
        ``write(rows, columns, pixels)`` of ``(h, w)``, or ``(h, w, 3)`` RGB.

    Raises:
        InputError: It cannot be written.
    """
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window

    height, width = like.shape
    profile = dict(driver="GTiff", height=height, width=width, count=num_bands, dtype=kind)
    profile |= dict(tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate")
    profile |= dict(BIGTIFF="IF_SAFER", crs=like.file.crs, transform=like.file.transform)
    points, crs = like.file.gcps
    if points:
        profile |= dict(gcps=points, crs=crs)
    if num_bands == 3:
        profile["photometric"] = "RGB"
    if nodata is not None:
        profile["nodata"] = nodata
    try:
        with contextlib.ExitStack() as stack:
            partial = stack.enter_context(partial_file(path))
            tiff = partial
            if path.suffix.lower() not in TIFF:  # GDAL writes PNG from top to bottom alone
                tiff = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".tif")).name
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # pictures without georeference
            with rasterio.open(tiff, "w", **profile) as file:

                def write(rows: slice, columns: slice, pixels: np.ndarray) -> None:
                    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
                    file.write(bands.astype(kind), window=Window.from_slices(rows, columns))

                yield write
            if tiff != partial:
                stack.enter_context(rasterio.Env(GDAL_PAM_ENABLED="NO"))  # no .aux.xml beside it
                copy(tiff, partial, driver="PNG")
    except rasterio.errors.RasterioError as error:
        raise InputError(f"Cannot write {path}: {error}.") from error
    except OSError as error:
        raise cannot_write(path, error) from error
