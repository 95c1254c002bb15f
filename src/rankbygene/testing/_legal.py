"""Slides that are odd and legal, with the tiles and counts that have to come out of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from hypothesis import strategies as st
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity

from rankbygene._arguments import checked
from rankbygene.data.slides._images import WHITE, level_array
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LegalSlide", "legal_slides"]

_AXES = ("x", "y")
# Names that stores take, beside the plain ones.
_REGIONS = ("spots", "S1", "region-2.b", "Zürich_3")
_MATRICES: Mapping[str, Callable[[Any], Any]] = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dask": lambda counts: da.from_array(counts, chunks=(3, -1)),  # type: ignore[no-untyped-call]
}
# How the channels of an image are called, and where red, green and blue are among them.
_CHANNELS = (("r", "g", "b"), ("b", "g", "r"), ("Red", "Blue", "Green"), ("r", "g", "b", "a"))


@dataclass(frozen=True, eq=False)
class LegalSlide:
    """An odd slide, and what is right for it.

    Attributes
    ----------
    sdata
        The slide, anew for every draw.
    setup
        What has to be said of it: keyword arguments of :class:`~rankbygene.data.SpatialSetup` and of
        ``setup_spatialdata``.
    tile_um, tile_px
        Width of the tiles. They need no resampling at ``level``.
    level
        Level of the image that they are to be cut from.
    um_per_px
        Micrometres per pixel of the finest level.
    tiles
        For each region ``[n, 3, tile_px, tile_px]``, in the order of the rows of the table.
    counts
        For each region ``[n, n_genes]``, in the same order.
    oddities
        What is odd about it, in words.
    """

    sdata: SpatialData
    setup: dict[str, Any]
    tile_um: float
    tile_px: int
    level: int
    um_per_px: float
    tiles: dict[str, NDArray[np.uint8]]
    counts: dict[str, NDArray[np.int64]]
    oddities: tuple[str, ...]


@checked
def legal_slides(
    folder: str | Path | None = None, *, max_regions: int = 3, max_spots: int = 8
) -> st.SearchStrategy[LegalSlide]:
    """Draw slides that are odd and legal.

    Images have one scale or several, chunks of any size, channels in any order, transparency; they and
    the regions lie rotated, flipped, scaled and moved in their common system. Regions are circles,
    polygons or labels, one or several, on one image or on one each, with ids that are numbers or text.
    Rows of the table lie in any order and leave out shapes. Counts are dense, sparse, lazy or on disk, in
    ``X`` or in a layer.

    Parameters
    ----------
    folder
        Where slides and tables may be written, to be read again from there; by default all stays in memory.
    max_regions, max_spots
        Most regions, and most spots of each.

    Raises
    ------
    InputValueError
        There is no such folder.

    Examples
    --------
    >>> from hypothesis import given
    >>> import rankbygene as rbg
    >>> @given(rbg.testing.legal_slides())
    ... def test_tiles(slide):
    ...     frames = rbg.data.resolve(slide.sdata, rbg.data.SpatialSetup(**slide.setup))
    ...     for frame in frames:
    ...         reader = rbg.data.TileReader(frame, tile_um=slide.tile_um, tile_px=slide.tile_px)
    ...         assert (reader.read() == slide.tiles[frame.region]).all()
    """
    if folder is not None and not Path(folder).is_dir():
        msg = f"{folder} is no folder; make it first, such as pytest's tmp_path_factory.mktemp(...)"
        raise InputValueError(msg)
    return draw_slides(None if folder is None else Path(folder), max_regions, max_spots)


@dataclass(frozen=True, eq=False)
class _Image:
    """An image, the matrix from its pixels to the system, and the level that tiles are cut from."""

    element: Any
    matrix: NDArray[np.float64]
    level: int
    system: str


@st.composite
def draw_slides(
    draw: st.DrawFn, folder: Path | None, max_regions: int, max_spots: int, *, plain: bool = False
) -> LegalSlide:
    """Draw as :func:`legal_slides` does; ``plain`` slides have circles and dense counts in ``X``."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factors: tuple[int, ...] = draw(st.sampled_from([(), (2,), (2, 2)]))
    level = draw(st.integers(0, len(factors)))
    tile_px = draw(st.integers(5, 24))
    um_per_px = draw(st.sampled_from([0.25, 0.5, 1.0, 3.3]))
    names = draw(st.lists(st.sampled_from(_REGIONS), min_size=1, max_size=max_regions, unique=True))
    told = draw(st.sampled_from(["argument", "per region", "system"]))
    by_text = draw(st.booleans())
    kinds = ["circles"] if plain else ["circles", "polygons", "few labels"]
    if by_text or tile_px % 2 == 0:  # labels are whole numbers, and centres of pixels
        kinds = [kind for kind in kinds if kind != "few labels"]

    own_image = draw(st.booleans())
    images = {
        f"he_{name}": draw(
            _images(rng, factors, level, um_per_px if told == "system" else None, f"system_{name}")
        )
        for name in (names if own_image else names[:1])
    }
    shapes, ids, tiles = {}, {}, {}
    for name in names:
        image = images[f"he_{name}" if own_image else f"he_{names[0]}"]
        kind = draw(st.sampled_from(kinds))
        n, n_more = draw(st.integers(1, max_spots)), draw(st.integers(0, 3))
        corners, places = _places(rng, image, tile_px, n + n_more)
        found = _ids(rng, n + n_more, by_text=by_text)
        if kind == "few labels":
            shapes[name] = _labels(places, found, image)
            places = np.floor(places) + 0.5
            corners = np.rint(places / 2**image.level - tile_px / 2).astype(int)
        else:
            shapes[name] = _shapes(rng, kind, places, found, image, draw(_similarities()))
        ids[name] = found[:n]
        tiles[name] = _cut(image, corners[:n], tile_px)

    kind = draw(
        st.sampled_from(["dense"] if plain else [*_MATRICES, "disk"][: None if folder else -1])
    )
    layer = None if plain else draw(st.sampled_from([None, "counts"]))
    table, order = _table(
        rng, ids, kind, layer, draw(st.sampled_from(["f4", "f8", "i8", "u2"])), folder
    )
    counts = {name: order[name] for name in names}
    tiles = {name: tiles[name][_rows_of(table, name, ids[name])] for name in names}
    sdata = SpatialData.init_from_elements(
        {name: image.element for name, image in images.items()} | shapes | {"table": table}
    )
    stored = folder is not None and not plain and kind != "disk" and draw(st.booleans())
    if draw(st.booleans()):
        _add_bystanders(rng, sdata)
    if stored and folder is not None:
        path = Path(tempfile.mkdtemp(dir=folder)) / "slide.zarr"
        sdata.write(path)
        sdata = SpatialData.read(path)
    setup: dict[str, Any] = {} if layer is None else {"layer": layer}
    if told == "argument":
        setup["um_per_px"] = um_per_px
    if told == "per region":
        setup["um_per_px"] = dict.fromkeys(names, um_per_px)
    oddities = (f"levels {1 + len(factors)}", f"counts {kind}", f"scale by {told}", *names)
    return LegalSlide(
        sdata=sdata,
        setup=setup,
        tile_um=um_per_px * 2**level * tile_px,
        tile_px=tile_px,
        level=level,
        um_per_px=um_per_px,
        tiles=tiles,
        counts=counts,
        oddities=(*oddities, *(["stored"] if stored else [])),
    )


def affine(matrix: NDArray[np.float64]) -> Affine:
    """Give a transformation of x and y."""
    return Affine(matrix, input_axes=_AXES, output_axes=_AXES)


@st.composite
def _similarities(draw: st.DrawFn) -> NDArray[np.float64]:
    """Draw matrices that turn, flip, scale and move."""
    angle = np.deg2rad(draw(st.one_of(st.sampled_from([0, 90, 180, 270]), st.integers(1, 359))))
    factor = 2.0 ** draw(st.integers(-3, 3))
    shift = draw(st.tuples(st.integers(-5000, 5000), st.integers(-5000, 5000)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag([draw(st.sampled_from([1.0, -1.0])), 1.0])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = factor * turn @ flip, shift
    return matrix


@st.composite
def _images(
    draw: st.DrawFn,
    rng: np.random.Generator,
    factors: tuple[int, ...],
    level: int,
    um_per_px: float | None,
    system: str,
) -> _Image:
    height, width = (4 * draw(st.integers(8, 25)) for _ in _AXES)
    # A level is the mean of the finer one, and so are its transparent pixels.
    names = draw(st.sampled_from(_CHANNELS[: None if not factors else -1]))
    pixels = rng.integers(0, 256, (len(names), height, width), dtype=np.uint8)
    if len(names) == 4:
        pixels[3] = rng.choice([0, 255], (height, width))
    matrix = draw(_similarities())
    systems: dict[str, Any] = {system: affine(matrix)}
    if um_per_px is not None:
        systems["um"] = affine(np.diag([um_per_px, um_per_px, 1.0]))
    chunks = draw(st.sampled_from([16, 37, 1024]))
    last = draw(st.booleans())
    element = Image2DModel.parse(
        np.moveaxis(pixels, 0, -1) if last else pixels,
        dims=("y", "x", "c") if last else ("c", "y", "x"),
        c_coords=list(names),
        scale_factors=list(factors) or None,
        chunks=(len(names), chunks, chunks),
        transformations=systems,
    )
    return _Image(element, matrix, level, system)


def _places(
    rng: np.random.Generator, image: _Image, tile_px: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw first pixels of tiles at their level, and centres in pixels of the finest level."""
    height, width = level_array(image.element, image.level).shape[1:]
    # Cells are taken once, so that labels do not cover each other.
    cells = rng.choice((height - 2) * (width - 2), n, replace=False)
    middle = np.column_stack([cells % (width - 2) + 1, cells // (width - 2) + 1])
    corners = middle - tile_px // 2
    # Near enough to the centre of the tile, whatever rounding the transformations add.
    jitter = rng.uniform(-0.4, 0.4, (n, 2))
    return corners, (corners + tile_px / 2 + jitter) * 2**image.level


def _cut(image: _Image, corners: NDArray[np.int64], tile_px: int) -> NDArray[np.uint8]:
    """Cut tiles by plain slices of a padded copy."""
    element = image.element
    level = element if not image.level else next(iter(element[f"scale{image.level}"].values()))
    if not image.level and hasattr(element, "children"):
        level = next(iter(element["scale0"].values()))
    named = {str(name)[0].lower(): level.sel(c=name).to_numpy() for name in level.c.to_numpy()}
    pixels = np.stack([named[color] for color in "rgb"])
    if "a" in named:
        pixels = np.where(named["a"] == 0, WHITE, pixels).astype(np.uint8)
    padded = np.pad(pixels, ((0, 0), (tile_px, tile_px), (tile_px, tile_px)), constant_values=WHITE)
    windows = [
        padded[:, y + tile_px : y + 2 * tile_px, x + tile_px : x + 2 * tile_px] for x, y in corners
    ]
    return np.stack(windows)


def _ids(rng: np.random.Generator, n: int, *, by_text: bool) -> list[Any]:
    numbers = rng.choice(60_000, n, replace=False) + 1
    return [f"spot {number}-ä" for number in numbers] if by_text else numbers.tolist()


def _shapes(
    rng: np.random.Generator,
    kind: str,
    places: NDArray[np.float64],
    ids: Sequence[Any],
    image: _Image,
    own: NDArray[np.float64],
) -> GeoDataFrame:
    """Put shapes at pixels of an image, in units of their own, in an order of their own."""
    to_own = np.linalg.inv(own) @ image.matrix
    centers = places @ to_own[:2, :2].T + to_own[:2, 2]
    index = pd.Index(list(ids))
    if kind == "circles":
        geometry = shapely.points(centers)
        frame = GeoDataFrame(
            {"radius": rng.uniform(1, 9, len(ids))}, geometry=geometry, index=index
        )
    else:
        frame = GeoDataFrame(geometry=shapely.box(*(centers - 2).T, *(centers + 2).T), index=index)
    shuffled = frame.iloc[rng.permutation(len(frame))]
    return ShapesModel.parse(shuffled, transformations={image.system: affine(own)})


def _labels(places: NDArray[np.float64], ids: Sequence[Any], image: _Image) -> Any:
    shape = level_array(image.element, 0).shape[1:]
    pixels = np.zeros(shape, np.uint16)
    x, y = np.floor(places).astype(int).T
    pixels[y, x] = ids
    return Labels2DModel.parse(
        pixels, dims=("y", "x"), transformations={image.system: affine(image.matrix)}
    )


def _table(
    rng: np.random.Generator,
    ids: Mapping[str, Sequence[Any]],
    kind: str,
    layer: str | None,
    dtype: str,
    folder: Path | None,
) -> tuple[ad.AnnData, dict[str, NDArray[np.int64]]]:
    """Make a table with the regions' rows in any order, and the counts of each region."""
    regions = np.array([name for name, found in ids.items() for _ in found], object)
    instances = np.array([one for found in ids.values() for one in found], object)
    order = rng.permutation(len(regions))
    regions, instances = regions[order], instances[order].tolist()
    counts = rng.poisson(2.0, (len(regions), int(rng.integers(2, 9)))).astype(np.int64)
    counts[np.arange(len(counts)), rng.integers(0, counts.shape[1], len(counts))] += 1
    matrix = _MATRICES.get(kind, sparse.csr_matrix)(counts.astype(dtype))
    table = ad.AnnData(
        matrix if layer is None else np.log1p(counts).astype(np.float32),
        obs=pd.DataFrame(
            {"region": pd.Categorical(regions), "instance": instances, "patient": "P1"},
            index=[f"cell-{i}" for i in rng.permutation(len(regions))],
        ),
        var=pd.DataFrame(index=[f"gene-{i}" for i in range(counts.shape[1])]),
        layers={} if layer is None else {layer: matrix},
    )
    if kind == "disk":
        path = Path(tempfile.mkdtemp(dir=folder)) / "table.h5ad"
        table.write_h5ad(path)
        table = ad.read_h5ad(path, backed="r")
    parsed = TableModel.parse(
        table,
        region=list(ids),
        region_key="region",
        instance_key="instance",
        overwrite_metadata=True,
    )
    return parsed, {name: counts[regions == name] for name in ids}


def _rows_of(table: ad.AnnData, region: str, ids: Sequence[Any]) -> list[int]:
    """Say which of a region's spots each of its rows is."""
    own = table.obs["instance"][(table.obs["region"] == region).to_numpy()]
    place = {one: i for i, one in enumerate(ids)}
    return [place[one] for one in own.tolist()]


def _add_bystanders(rng: np.random.Generator, sdata: SpatialData) -> None:
    """Add what no region has to do with."""
    elsewhere = {"elsewhere": Identity()}
    pixels = rng.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    sdata.images["other"] = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=elsewhere
    )
    sdata.points["molecules"] = PointsModel.parse(rng.random((5, 2)), transformations=elsewhere)
    sdata.tables["notes"] = TableModel.parse(ad.AnnData(np.ones((2, 2), np.float32)))
