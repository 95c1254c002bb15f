from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from spatialdata import SpatialData
from spatialdata.transformations import Identity, set_transformation

from rankbygene.base._setup import recall_setup
from rankbygene.base.spots._slide import tissue_frame
from rankbygene.data import SpatialSetup, frame_from_shapes, plan_tiles, resolve
from rankbygene.data.slides._pixel_size import check_pixel_size, check_um_per_px
from rankbygene.data.slides._scale import hexagon_pitch
from rankbygene.errors import InputValueError
from rankbygene.model import RankByGene
from rankbygene.pp import tile_tissue
from rankbygene.pp._tissue import _image_and_scale


def lattice(rows: int, columns: int, pitch: float, angle: float = 0.0) -> tuple[Any, Any]:
    """Return (array_row, array_col) and centres of a printed hexagonal lattice."""
    index = np.array([(r, 2 * c + r % 2) for r in range(rows) for c in range(columns)])
    flat = index[:, ::-1] * pitch * np.array([0.5, np.sqrt(3) / 2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return index, flat @ turn.T + 30


def without_scale(build: SimpleNamespace, centers: Any = None, **kwargs: Any) -> SpatialData:
    """Build a slide whose image does not say how large it is."""
    image = build.image(build.picture(), {"global": Identity()})
    return build.slide(centers, image=image, **kwargs)


def visium(build: SimpleNamespace, pitch: float = 12.0, **kwargs: Any) -> SpatialData:
    index, centers = lattice(6, 7, pitch, angle=0.1)
    sdata = without_scale(build, centers, **kwargs)
    sdata.tables["table"].obs[["array_row", "array_col"]] = index
    return sdata


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, np.pi])
@pytest.mark.parametrize("mirror", [1, -1])
def test_pitch_of_a_visium_lattice(angle: float, mirror: int) -> None:
    index, centers = lattice(9, 8, pitch=137.0, angle=angle)
    noisy = centers * [mirror, 1] + np.random.default_rng(0).normal(0, 1, centers.shape)
    assert hexagon_pitch(noisy, index) == pytest.approx(137, rel=0.005)
    some = np.random.default_rng(1).permutation(len(index))[:20]
    assert hexagon_pitch(noisy[some], index[some]) == pytest.approx(137, rel=0.02)


@pytest.mark.real_data
def test_pitch_of_a_real_visium_slide(real_data: Path) -> None:
    """The six neighbours of a spot are as far away as the fit says, to a pixel."""
    names = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]
    path = real_data / "crc16_visium" / "spatial" / "tissue_positions_list.csv"
    spots = pd.read_csv(path, header=None, names=names)
    centers = spots[["x", "y"]].to_numpy(float)
    pitch = hexagon_pitch(centers, spots[["array_row", "array_col"]].to_numpy())
    nearest = cKDTree(centers).query(centers, k=2)[0][:, 1]
    assert pitch == pytest.approx(np.median(nearest), abs=1)


def test_other_lattices_have_no_visium_pitch() -> None:
    index, centers = lattice(6, 6, pitch=10)
    square = np.array([(r, c) for r in range(6) for c in range(6)])
    assert hexagon_pitch(square * 10.0, square) is None
    assert hexagon_pitch(centers * [1, 1.1], index) is None
    assert hexagon_pitch(np.random.default_rng(0).normal(size=(36, 2)), index) is None
    assert hexagon_pitch(centers[:2], index[:2]) is None
    index, centers = lattice(20, 20, pitch=10)
    scattered = centers + np.random.default_rng(0).normal(0, 1, centers.shape)
    assert hexagon_pitch(scattered, index) is None
    # every second column and row of a square grid keeps the parity, and is still square
    assert hexagon_pitch(square * 10.0, square * 2) is None


def test_visium_lattice_gives_the_scale(build: SimpleNamespace) -> None:
    (frame,) = resolve(visium(build, pitch=12.5))
    assert frame.um_per_unit == pytest.approx(100 / 12.5)
    assert "Visium lattice" in frame.um_source
    near = np.sort(np.linalg.norm(frame.centers_um[:, None] - frame.centers_um, axis=2), axis=1)
    np.testing.assert_allclose(near[:, 1], 100, rtol=1e-6)


def test_order_of_the_sources(build: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    sdata = visium(build)
    sdata.tables["table"].uns["spatial"] = {
        "spots": {"scalefactors": {"microns_per_pixel": 0.3}},
        "other": {"scalefactors": {"microns_per_pixel": 0.4}},
    }
    assert resolve(sdata)[0].um_per_unit == 0.3
    assert "neighbouring spots are 3.6 um apart, on a Visium slide they are 100" in caplog.text
    sdata.images["he"] = build.image(build.picture())
    assert resolve(sdata)[0].um_per_unit == 0.5
    (frame,) = resolve(sdata, SpatialSetup(um_per_px=0.7))
    assert (frame.um_per_unit, frame.um_source) == (0.7, "um_per_px=0.7")


def test_microns_per_pixel_count_the_units_of_the_shapes(build: SimpleNamespace) -> None:
    sdata = without_scale(build, systems={"global": build.scale(0.25)})
    sdata.tables["table"].uns["spatial"] = {"lib": {"scalefactors": {"microns_per_pixel": 0.3}}}
    assert resolve(sdata)[0].um_per_unit == pytest.approx(1.2)
    spatial = sdata.tables["table"].uns["spatial"]
    spatial["second"] = {"scalefactors": {"microns_per_pixel": 0.5}}
    with pytest.raises(InputValueError, match="microns_per_pixel: .*'second': 0.5"):
        resolve(sdata)


def test_um_per_px_is_that_of_the_image(build: SimpleNamespace) -> None:
    image = build.image(build.picture(), {"global": build.scale(4)})
    (frame,) = resolve(build.slide(image=image), SpatialSetup(um_per_px=2.0))
    assert frame.um_per_unit == 0.5


@pytest.mark.parametrize("value", [0.0273, 1e6, 0, -0.5, np.inf, np.nan, "0,25", "", None, True])
def test_no_microscope_has_such_pixels(build: SimpleNamespace, value: Any) -> None:
    with pytest.raises(InputValueError) as caught:
        check_um_per_px(value, "the label")
    for part in ("0.05 to 50", f"the label says {value!r}", "um_per_px="):
        assert part in str(caught.value).replace("np.float64(", "")
    if value is not None:
        with pytest.raises(InputValueError, match=r"0\.05 to 50.*um_per_px says"):
            resolve(build.slide(), SpatialSetup(um_per_px=value))


def test_right_pixels_are_right_however_they_are_written() -> None:
    for value in (0.25, "0.25", np.float32(0.25), " 2.5e-1 "):
        assert check_um_per_px(value, "") == 0.25
    assert (check_um_per_px(0.05, ""), check_um_per_px(50, "")) == (0.05, 50)
    assert check_pixel_size(0.25, "0.251", "") == pytest.approx(0.2505, abs=1e-6)
    with pytest.raises(InputValueError, match=r"0\.25 um wide and 0\.5 um high.*um_per_px"):
        check_pixel_size(0.25, 0.5, "OME")


@pytest.mark.parametrize("where", ["system", "table", "lattice", "diameter"])
def test_every_source_is_checked(build: SimpleNamespace, where: str) -> None:
    """Ten times too fine, wherever it is written."""
    if where == "system":
        image = build.image(build.picture(), {"global": Identity(), "um": build.scale(0.0273)})
        sdata = build.slide(image=image)
    elif where == "table":
        sdata = without_scale(build)
        library = {"scalefactors": {"microns_per_pixel": 0.0273}}
        sdata.tables["table"].uns["spatial"] = {"lib": library}
    elif where == "lattice":
        index, centers = lattice(2, 2, 100 / 0.0273)
        sdata = without_scale(build, centers)
        sdata.tables["table"].obs[["array_row", "array_col"]] = index
    else:
        sdata = without_scale(build, radius=55 / 2 / 0.0273)
        sdata.attrs["spatialdata_io_reader"] = "visium"
    with pytest.raises(InputValueError, match=r"0\.05 to 50.*says 0\.0273"):
        resolve(sdata)
    (frame,) = resolve(sdata, SpatialSetup(um_per_px=0.273))
    assert frame.um_per_unit == 0.273


def test_systems_of_micrometres_that_disagree(build: SimpleNamespace) -> None:
    systems = {"global": Identity(), "um": build.scale(0.25), "microns": build.scale(0.5)}
    with pytest.raises(InputValueError, match=r"'um': 0\.25.*'microns': 0\.5.*um_per_px"):
        resolve(build.slide(image=build.image(build.picture(), systems)))


def test_a_library_of_another_region_tells_nothing(build: SimpleNamespace) -> None:
    sdata = without_scale(build)
    sdata.shapes["second"] = build.circles(sdata.shapes["spots"][["geometry"]].get_coordinates())
    sdata.tables["table"] = build.table({"spots": range(4), "second": range(4)})
    library = {"scalefactors": {"microns_per_pixel": 0.3}}
    sdata.tables["table"].uns["spatial"] = {"spots": library}
    with pytest.raises(InputValueError, match="unknown; looked at .*'spots': 0.3"):
        resolve(sdata)
    sdata.tables["table"].uns["spatial"] = {"both": library}
    assert [frame.um_per_unit for frame in resolve(sdata)] == [0.3, 0.3]


def test_spots_of_the_visium_reader(build: SimpleNamespace) -> None:
    sdata = without_scale(build, radius=5.5)
    sdata.attrs["spatialdata_io_reader"] = "visium"
    assert resolve(sdata)[0].um_per_unit == pytest.approx(5)
    sdata.shapes["spots"]["radius"] = [5, 5, 5, 6]
    with pytest.raises(InputValueError, match="sizes differ"):
        resolve(sdata)


@pytest.mark.parametrize("name", ["µm", "μm", "Microns", "micrometre"])
def test_spellings_of_micrometres(build: SimpleNamespace, name: str) -> None:
    image = build.image(build.picture(), {"global": Identity(), name: build.scale(0.25)})
    assert resolve(build.slide(image=image))[0].um_per_unit == 0.25


def test_unknown_scale_says_where_it_looked(build: SimpleNamespace) -> None:
    with pytest.raises(InputValueError) as caught:
        resolve(without_scale(build))
    for part in ("['global']", "uns['spatial']", "array_row", "diameter", "Pass um_per_px="):
        assert part in str(caught.value)


def from_uns(build: SimpleNamespace) -> SpatialData:
    sdata = visium(build)
    sdata.tables["table"].uns["spatial"] = {"lib": {"scalefactors": {"microns_per_pixel": 0.8}}}
    return sdata


def from_setup(build: SimpleNamespace) -> SpatialData:
    sdata = visium(build, name="capture")
    sdata.tables["counts"] = sdata.tables.pop("table")
    RankByGene.setup_spatialdata(sdata, table_key="counts", um_per_px={"capture": 0.7})
    return sdata


def from_lattice(build: SimpleNamespace) -> SpatialData:
    # 55 um for the spots' diameter would be another scale than 100 um for their distance.
    sdata = visium(build, radius=2.0)
    sdata.attrs["spatialdata_io_reader"] = "visium"
    return sdata


@pytest.mark.parametrize(
    ("make", "expected"), [(from_uns, 0.8), (from_setup, 0.7), (from_lattice, 100 / 12)]
)
def test_tiles_without_a_table_have_the_scale_of_those_with_one(
    build: SimpleNamespace, make: Any, expected: float
) -> None:
    sdata = make(build)
    (region,) = sdata.shapes
    setup = recall_setup(sdata, default=SpatialSetup())
    frames = [*resolve(sdata, setup), frame_from_shapes(sdata, region)]
    plans = [plan_tiles(frame, tile_um=30 * expected, tile_px=30) for frame in frames]
    assert [plan.side for plan in plans] == [30, 30]
    assert [plan.um_per_px for plan in plans] == pytest.approx([expected] * 2)
    assert _image_and_scale(sdata, None, None)[1] == pytest.approx(expected)
    # What is passed goes before what is known.
    assert _image_and_scale(sdata, None, 0.5)[1] == pytest.approx(0.5)
    assert frame_from_shapes(sdata, region, um_per_px=0.5).um_per_unit == pytest.approx(0.5)


def test_regions_that_give_one_image_two_scales_are_refused(build: SimpleNamespace) -> None:
    sdata = from_uns(build)
    (_, centers) = lattice(6, 7, 12.0)
    sdata.shapes["other"] = build.circles(centers)
    sdata.tables["more"] = build.table({"other": list(sdata.shapes["other"].index)})
    sdata.tables["more"].uns["spatial"] = {"lib": {"scalefactors": {"microns_per_pixel": 0.4}}}
    with pytest.raises(InputValueError, match=r"'spots': 0\.8, 'other': 0\.4"):
        frame_from_shapes(sdata, "spots")


def test_tissue_is_tiled_at_the_scale_of_the_spots(make_slides: Any) -> None:
    (sdata,) = make_slides(1)
    (key,) = sdata.images
    set_transformation(sdata.images[key], {"global": Identity()}, set_all=True)
    sdata.tables["table"].uns["spatial"] = {"lib": {"scalefactors": {"microns_per_pixel": 1.25}}}
    tile: dict[str, Any] = {"tile_um": 100.0, "tile_px": 80}
    tile_tissue(sdata, tile_um=100)
    width = sdata.shapes["tissue_tiles"].total_bounds
    assert np.allclose(sdata.shapes["tissue_tiles"].geometry.area, 80.0**2)
    found, tiles = tissue_frame(
        sdata,
        "t",
        image_key=None,
        coordinate_system=None,
        um_per_px=None,
        tile_um=100,
        step_um=None,
    )
    np.testing.assert_array_equal(tiles.total_bounds, width)
    (spots,) = resolve(sdata)
    assert [plan_tiles(frame, **tile).side for frame in (found, spots)] == [80, 80]
