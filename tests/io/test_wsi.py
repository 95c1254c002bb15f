from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

import rankbygene as rbg
from rankbygene.data import level_array, n_levels
from rankbygene.errors import RankByGeneError

HEIGHT, WIDTH = 1000, 1301
MPP = 0.499


@pytest.fixture(scope="module")
def picture() -> Any:
    """Pink tissue on glass; every pixel of the tissue tells its place."""
    y, x = np.indices((HEIGHT, WIDTH))
    image = np.full((HEIGHT, WIDTH, 3), 243, np.uint8)
    tissue = ((y - 480) / 330) ** 2 + ((x - 640) / 500) ** 2 < 1
    image[tissue] = np.stack([180 + x % 64, 60 + y % 64, 120 + (x + y) % 64], 2)[tissue]
    return image


def write_svs(path: Path, image: Any, mpp: str = f"|MPP = {MPP}", **kwargs: Any) -> Path:
    """An Aperio slide: baseline, thumbnail, a quarter, label and overview."""
    text = "Aperio Image Library v11.2.1\n{} (240x240) JPEG/RGB Q=90|AppMag = 20" + mpp
    tiled = {"photometric": "rgb", "tile": (240, 240), "metadata": None} | kwargs
    plain = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as out:
        out.write(image, description=text.format("1301x1000"), **tiled)
        out.write(image[::8, ::8], description=text.format("-> 163x125 -"), **plain)
        out.write(image[::4, ::4], description=text.format("-> 326x250"), **tiled)
        out.write(image[:50, :60], description="Aperio\nlabel 60x50", subfiletype=1, **plain)
        out.write(image[:70, :90], description="Aperio\nmacro 90x70", subfiletype=9, **plain)
    return path


def write_pages(path: Path, image: Any) -> Path:
    """A generic pyramid in pages of its own, with the resolution in the tags of TIFF."""
    plain = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        out.write(image, resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER", **plain)
        out.write(image[::2, ::2], subfiletype=1, **plain)
        out.write(image[::4, ::4], subfiletype=1, **plain)
    return path


def write_ome(path: Path, image: Any) -> Path:
    """OME-TIFF in planes, its levels in SubIFDs and its pixels in nanometres."""
    planes = image.transpose(2, 0, 1)
    kwargs = {"photometric": "rgb", "planarconfig": "separate", "tile": (128, 128)}
    sizes = {f"PhysicalSize{axis}": 499.0 for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XY"}
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(planes, subifds=1, metadata={"axes": "CYX"} | sizes | units, **kwargs)
        out.write(planes[:, ::2, ::2], subfiletype=1, **kwargs)
    return path


@pytest.mark.parametrize(
    ("write", "name", "steps"),
    [
        (write_svs, "a slide.svs", (1, 4)),
        (write_pages, "a slide.tif", (1, 2, 4)),
        (write_ome, "a slide.ome.tif", (1, 2)),
    ],
)
def test_levels_and_scale_are_those_of_the_file(
    tmp_path: Path, picture: Any, write: Callable[..., Path], name: str, steps: tuple[int, ...]
) -> None:
    sdata = rbg.io.read_wsi(write(tmp_path / name, picture))
    image = sdata.images["a_slide_image"]
    assert n_levels(image) == len(steps)
    for level, step in enumerate(steps):
        pixels = level_array(image, level).compute()
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), picture[::step, ::step])
    scale = get_transformation(image, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(np.diag(scale), [MPP, MPP, 1], rtol=1e-6)
    last = image[f"scale{len(steps) - 1}"]["image"]
    assert last.coords["x"][-1] == pytest.approx(WIDTH - WIDTH / last.sizes["x"] / 2)


def test_openslide_reads_the_same_pixels(tmp_path: Path, picture: Any) -> None:
    pytest.importorskip("openslide")
    from rankbygene.io._openslide import open_with_openslide
    from rankbygene.io._tiff import open_tiff

    path = write_svs(tmp_path / "slide.svs", picture, compression="jpeg")
    ours, theirs = open_tiff(path), open_with_openslide(path, "")
    assert ours.um_per_px == theirs.um_per_px == (MPP, MPP)
    assert [level.shape for level in ours.levels] == [level.shape for level in theirs.levels]
    for mine, other in zip(ours.levels, theirs.levels, strict=True):
        difference = mine.compute().astype(int) - other.compute()
        assert np.abs(difference).max() <= 3  # two decoders of JPEG


def test_colours_that_tifffile_leaves_as_they_are_stored(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openslide")
    stored = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    path = write_svs(tmp_path / "slide.svs", stored, compression=33003)
    sdata = rbg.io.read_wsi(path)
    pixels = level_array(sdata.images["slide_image"], 0).compute().transpose(1, 2, 0)
    assert np.abs(pixels.astype(int) - picture).max() <= 3  # rounded there and back
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ValueError, match=r"slide\.svs holds YCbCr.*pip install openslide"):
        rbg.io.read_wsi(path)


def test_nothing_is_decoded_before_it_is_needed(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_svs(tmp_path / "slide.svs", picture, compression="jpeg")
    decoded = []
    decode = tifffile.TiffPage.decode.func  # type: ignore[attr-defined]

    def counting(page: Any) -> Any:
        inner = decode(page)

        def count(*args: Any, **kwargs: Any) -> Any:
            decoded.append(page.index)
            return inner(*args, **kwargs)

        return count

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(counting))
    sdata = rbg.io.read_wsi(path)
    assert len(decoded) <= 2 * n_levels(sdata.images["slide_image"])
    before = len(decoded)
    level_array(sdata.images["slide_image"], 0)[:, :10, :10].compute()
    assert 0 < len(decoded) - before <= 25


def test_the_slide_goes_to_zarr_and_back(tmp_path: Path, picture: Any) -> None:
    sdata = rbg.io.read_wsi(write_svs(tmp_path / "slide.svs", picture), name="S1")
    rbg.io.write_sdata(sdata, tmp_path / "slide.zarr")
    again = SpatialData.read(tmp_path / "slide.zarr")
    for level in (0, 1):
        np.testing.assert_array_equal(
            level_array(again.images["S1_image"], level),
            level_array(sdata.images["S1_image"], level),
        )
    key, _ = rbg.pp.find_tissue_tiles(again, tile_um=112)
    assert key == "S1_image"


def test_a_slide_without_spots_is_predicted_and_drawn(
    tmp_path: Path, picture: Any, model: Any
) -> None:
    sdata = rbg.io.read_wsi(write_svs(tmp_path / "slide.svs", picture))
    model.predict_slide(sdata)
    table = sdata.tables["rankbygene"]
    # The ellipse holds about 10 tiles of 112 um; one at its rim may count or not.
    inside = np.pi * 330 * 500 * MPP**2 / 112**2
    assert 0.8 * inside < table.n_obs < 1.6 * inside
    assert np.isfinite(table.X).all() and np.isfinite(table.obsm["X_rankbygene"]).all()
    assert list(table.var_names) == model.genes
    tile = table.uns["rankbygene_params"]["tile"]
    assert tile["um"] == 112
    axes = rbg.pl.spatial_expression(
        sdata, model.genes[0], table_key="rankbygene", save=tmp_path / "map.png"
    )
    assert axes.shape == (1, 2)
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_an_interruption_leaves_the_slide_as_it_was(
    tmp_path: Path, picture: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdata = rbg.io.read_wsi(write_svs(tmp_path / "slide.svs", picture))
    rbg.io.write_sdata(sdata, tmp_path / "slide.zarr")
    backed = SpatialData.read(tmp_path / "slide.zarr")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "slide.zarr").rglob("*")}

    def stop(images: Any) -> None:
        raise KeyboardInterrupt

    for slide in (sdata, backed):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(model, "_apply", stop)
            model.predict_slide(slide)
        assert [name for _, name, _ in slide.gen_elements()] == ["slide_image"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "slide.zarr").rglob("*")} == files
    model.predict_slide(backed)
    assert np.isfinite(backed.tables["rankbygene"].X).all()


def test_ten_thousand_tiles_pass_through_little_memory(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, across = 64, 100
    size = side * across

    def stored_tiles() -> Any:
        for start in range(0, size, 256):
            for left in range(0, size, 256):
                y, x = np.indices((256, 256), np.uint16)
                red, green = (x + left) // side, (y + start) // side
                yield np.stack([red, 100 + green, np.zeros_like(red)], 2).astype(np.uint8)

    tifffile.imwrite(
        tmp_path / "slide.tif",
        stored_tiles(),
        shape=(size, size, 3),
        dtype=np.uint8,
        tile=(256, 256),
        photometric="rgb",
        metadata=None,
    )
    sdata = rbg.io.read_wsi(tmp_path / "slide.tif", um_per_px=112 / side)

    def colours(images: torch.Tensor) -> dict[str, torch.Tensor]:
        means = images.float().mean((2, 3))
        return {"latent": means, "expression": means[:, :1].expand(-1, len(model.genes))}

    monkeypatch.setattr(model, "_apply", colours)
    rbg.pp.tile_tissue(sdata)
    tracemalloc.start()
    try:
        model.predict_slide(sdata, shapes_key="tissue_tiles")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    table = sdata.tables["rankbygene"]
    assert table.n_obs == across**2
    column, row = np.floor(table.obsm["spatial"] / side).T
    np.testing.assert_array_equal(table.obsm["X_rankbygene"][:, 0], column)
    np.testing.assert_array_equal(table.obsm["X_rankbygene"][:, 1], 100 + row)
    assert peak < size**2 * 3 / 3, peak


def test_pixels_are_read_at_the_right_place_and_scale(tmp_path: Path, picture: Any) -> None:
    from rankbygene.data import TileReader, frame_from_shapes

    sdata = rbg.io.read_wsi(write_svs(tmp_path / "slide.svs", picture))
    rbg.pp.tile_tissue(sdata, tile_um=64 * MPP)
    frame = frame_from_shapes(sdata, "tissue_tiles")
    assert frame.um_source.startswith("coordinate system 'um'")
    reader = TileReader(frame, tile_um=64 * MPP, tile_px=64)
    x0, y0 = reader.plan.x0, reader.plan.y0
    expected = [
        picture[y : y + 64, x : x + 64].transpose(2, 0, 1) for x, y in zip(x0, y0, strict=True)
    ]
    np.testing.assert_array_equal(reader.read(), expected)


def test_an_unknown_scale_is_refused(tmp_path: Path, picture: Any, caplog: Any) -> None:
    path = write_svs(tmp_path / "slide.svs", picture, mpp="")
    with pytest.raises(ValueError, match=r"slide\.svs are unknown.*Aperio.*TIFF.*um_per_px"):
        rbg.io.read_wsi(path)
    image = rbg.io.read_wsi(path, um_per_px=0.25).images["slide_image"]
    scale = get_transformation(image, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert scale[0, 0] == 0.25
    # 72 dots per inch are meant for a printer.
    tifffile.imwrite(
        tmp_path / "print.tif", picture, resolution=(72, 72), resolutionunit="INCH", metadata=None
    )
    with pytest.raises(ValueError, match="unknown"):
        rbg.io.read_wsi(tmp_path / "print.tif")
    for size in (0, 0.01):
        with pytest.raises(ValueError, match="0.05 to 50"):
            rbg.io.read_wsi(path, um_per_px=size)
    known = write_svs(tmp_path / "known.svs", picture)
    rbg.io.read_wsi(known, um_per_px=0.25)
    assert "um_per_px=0.25 is used" in caplog.text


@pytest.mark.parametrize("mpp", ["0.0273", "0,25", "inf", "-0.5", "1e6"])
def test_an_impossible_scale_is_refused(
    tmp_path: Path, picture: Any, caplog: Any, mpp: str
) -> None:
    """And never replaced by another number of the file, but by the user's."""
    path = write_svs(
        tmp_path / "s.svs", picture, mpp=f"|MPP = {mpp}", resolution=(4e4, 4e4), resolutionunit=3
    )
    with pytest.raises(ValueError, match=rf"Aperio.*s\.svs says '{mpp}'.*um_per_px") as caught:
        rbg.io.read_wsi(path)
    assert isinstance(caught.value, rbg.errors.RankByGeneError)
    image = rbg.io.read_wsi(path, um_per_px=0.25).images["s_image"]
    scale = get_transformation(image, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert scale[0, 0] == 0.25
    assert mpp in caplog.text


@pytest.mark.parametrize("size", ["0,25", "inf", "0.0273", "-1"])
def test_impossible_sizes_of_ome_are_refused(tmp_path: Path, picture: Any, size: str) -> None:
    path = write_ome(tmp_path / "s.ome.tif", picture)
    whole = path.read_bytes()
    old = b'PhysicalSizeX="499.0" PhysicalSizeXUnit="nm"'
    assert whole.count(old) == 1
    new = f'PhysicalSizeX="{size}" PhysicalSizeXUnit="um"'.encode()
    path.write_bytes(whole.replace(old, new.ljust(len(old))))
    with pytest.raises(ValueError, match=r"PhysicalSizeX.*says.*um_per_px"):
        rbg.io.read_wsi(path)
    path.write_bytes(whole.replace(old, b'PhysicalSizeX=""'.ljust(len(old))))
    with pytest.raises(ValueError, match=r"unknown.*PhysicalSizeX.*um_per_px"):
        rbg.io.read_wsi(path)
    path.write_bytes(whole.replace(b'PhysicalSizeY="499.0"', b'PhysicalSizeY="998.0"'))
    with pytest.raises(ValueError, match=r"0\.499 um wide and 0\.998 um high"):
        rbg.io.read_wsi(path)


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [("um", 2), ("micron", 2), ("\\u00B5m", 2), ("mm", 2000), ("inch", 50_800), ("cm", 20_000)],
)
def test_units_of_imagej(tmp_path: Path, picture: Any, unit: str, per_unit: float) -> None:
    def write(unit: str) -> Path:
        tifffile.imwrite(
            tmp_path / "s.tif",
            picture,
            imagej=True,
            resolution=(per_unit, per_unit),
            metadata={"unit": unit, "axes": "YXS"},
        )
        return tmp_path / "s.tif"

    image = rbg.io.read_wsi(write(unit)).images["s_image"]
    scale = get_transformation(image, "um").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(np.diag(scale)[:2], 0.5)
    with pytest.raises(ValueError, match="unknown.*ImageJ.*um_per_px"):
        rbg.io.read_wsi(write("pixel"))


def test_several_scenes_in_a_file_are_told(tmp_path: Path, picture: Any, caplog: Any) -> None:
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as out:
        for scene in (picture[:800], picture):
            out.write(scene, photometric="rgb", metadata={"axes": "YXS"})
    image = rbg.io.read_wsi(tmp_path / "s.ome.tif", um_per_px=0.5).images["s_image"]
    np.testing.assert_array_equal(level_array(image, 0).compute().transpose(1, 2, 0), picture)
    assert "2 pictures of about the same size" in caplog.text


@pytest.mark.parametrize("kind", ["straight", "premultiplied", "unsaid", "png"])
def test_what_was_not_scanned_is_white(tmp_path: Path, picture: Any, kind: str) -> None:
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, :300], alpha[:, 300:400] = 0, 128
    colors = picture.copy()
    expected = np.rint(
        (colors.astype(float) * alpha[..., None] + 255.0 * (255.0 - alpha[..., None])) / 255
    )
    if kind == "premultiplied":
        colors = np.rint(colors * (alpha[..., None] / 255)).astype(np.uint8)
    rgba = np.dstack([colors, alpha])
    if kind == "png":
        Image.fromarray(rgba).save(tmp_path / "s.png")
    else:
        extra = {"straight": "unassalpha", "premultiplied": "assocalpha", "unsaid": "unspecified"}
        tifffile.imwrite(
            tmp_path / "s.tif",
            rgba,
            photometric="rgb",
            tile=(256, 256),
            extrasamples=[extra[kind]],
            metadata=None,
        )
    path = tmp_path / ("s.png" if kind == "png" else "s.tif")
    image = rbg.io.read_wsi(path, um_per_px=0.5).images["s_image"]
    pixels = level_array(image, 0).compute().transpose(1, 2, 0).astype(int)
    wanted = picture if kind == "unsaid" else expected
    assert np.abs(pixels - wanted).max() <= 1
    np.testing.assert_array_equal(pixels[:, 400:], picture[:, 400:])


def test_an_ordinary_picture_needs_its_scale(tmp_path: Path, picture: Any) -> None:
    Image.fromarray(picture).save(tmp_path / "7.png")
    with pytest.raises(ValueError, match="um_per_px"):
        rbg.io.read_wsi(tmp_path / "7.png")
    sdata = rbg.io.read_wsi(tmp_path / "7.png", um_per_px=0.5)
    np.testing.assert_array_equal(
        level_array(sdata.images["7_image"], 0).compute().transpose(1, 2, 0), picture
    )


def test_what_is_no_slide_is_named(tmp_path: Path, picture: Any, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        rbg.io.read_wsi(tmp_path / "absent.svs")
    tifffile.imwrite(tmp_path / "grey.tif", picture[:, :, 0])
    with pytest.raises(ValueError, match=r"grey\.tif holds no picture of 3 or 4 channels.*YX"):
        rbg.io.read_wsi(tmp_path / "grey.tif")
    tifffile.imwrite(tmp_path / "deep.tif", picture.astype(np.uint16), photometric="rgb")
    with pytest.raises(TypeError, match="uint16"):
        rbg.io.read_wsi(tmp_path / "deep.tif", um_per_px=0.5)
    whole = write_svs(tmp_path / "slide.svs", picture).read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"cut\.svs"):
        rbg.io.read_wsi(tmp_path / "cut.svs")
    (tmp_path / "slide.mrxs").write_bytes(b"no slide")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ValueError, match=r"slide\.mrxs is not a TIFF.*pip install openslide"):
        rbg.io.read_wsi(tmp_path / "slide.mrxs")


@pytest.mark.parametrize("kind", ["tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_on_its_side_is_turned_as_its_tag_says(
    tmp_path: Path, picture: Any, kind: str, orientation: int
) -> None:
    small = picture[::8, ::8]
    path = tmp_path / f"turned.{kind}"
    if kind == "tif":
        tag = (274, "H", 1, orientation, True)
        resolution = {"resolution": (1e4, 2e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(
            path, small, photometric="rgb", extratags=[tag], metadata=None, **resolution
        )
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(small).save(path, exif=exif, quality=100, subsampling=0)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    slide = rbg.io.read_wsi(path, um_per_px=1.0)
    np.testing.assert_array_equal(
        level_array(slide["turned_image"], 0).compute(), upright.transpose(2, 0, 1)
    )


def test_a_damaged_slide_is_named_however_it_is_damaged(tmp_path: Path, picture: Any) -> None:
    whole = write_svs(tmp_path / "whole.svs", picture).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.svs"
    n_refused = 0
    for n in range(40):
        spoiled = bytearray(whole[: len(whole) // (n % 3 + 1)])
        # The directories, by which everything is found, lie at the two ends.
        places = np.r_[rng.integers(0, 64, 8), len(spoiled) - 1 - rng.integers(0, 3000, 40)]
        spoiled = bytearray(bytes(spoiled))
        for place in places:
            spoiled[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(spoiled))
        try:
            slide = rbg.io.read_wsi(path, um_per_px=0.5)
            rbg.pp.tile_tissue(slide, tile_um=112)
        except RankByGeneError as error:
            assert "damaged" in str(error) or "tissue" in str(error) or "image" in str(error)
            n_refused += 1
    assert n_refused > 20
