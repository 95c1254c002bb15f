from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata import SpatialData

import rankbygene as rbg
from rankbygene.errors import InputValueError, RankByGeneError

N, D, SIDE = 23, 6, 512
CLAM = {"patch_size": 256, "patch_level": 1, "downsample": (2.0, 2.0), "name": "S1"}
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": SIDE,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "savetodir": "None",
}


def write(
    path: Path, features: Any, coords: Any = None, attributes: dict[str, Any] | None = None
) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes or {})
    return path


@pytest.fixture(scope="module")
def features() -> Any:
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def corners() -> Any:
    return np.stack(np.divmod(np.arange(N), 5), 1)[:, ::-1] * SIDE


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("leading", [False, True])
def test_rows_are_those_of_the_file(
    tmp_path: Path, features: Any, corners: Any, dtype: str, leading: bool
) -> None:
    stored = features.astype(dtype)
    path = write(tmp_path / "S1.h5", stored[None] if leading else stored, corners, TRIDENT)
    bag = rbg.io.H5Bag(path)
    assert (bag.name, bag.n_tiles, bag.n_features) == ("S1", N, D)
    assert bag.attributes["level0_magnification"] == 40
    expected = stored.astype(np.float32)
    np.testing.assert_array_equal(bag.read(), expected)
    np.testing.assert_array_equal(bag.coords, corners)
    rows = np.array([20, 3, 3, 0])
    again = pickle.loads(pickle.dumps(bag))
    np.testing.assert_array_equal(again.read(rows), expected[rows])
    assert bag.read(rows).dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, N - 1), max_size=40), st.integers(1, 9))
def test_blocks_give_the_rows_in_their_order(rows: list[int], block: int) -> None:
    from rankbygene.io import _h5

    class Stored(np.ndarray):
        """An array that refuses what a dataset in a file would read slowly."""

        def __getitem__(self, key: Any) -> Any:
            assert isinstance(key, slice) and key.stop - key.start <= block
            return np.asarray(self)[key]

    stored = np.arange(N * 2.0).reshape(N, 2)
    wanted = np.array(rows, np.intp)
    values = np.empty((len(rows), 2), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_h5, "_ROWS_AT_ONCE", block)
        _h5._fill(values, wanted, stored.view(Stored))
    np.testing.assert_array_equal(values, stored[wanted])


@pytest.mark.parametrize("attributes", [CLAM, TRIDENT, {"patch_size": SIDE, "patch_level": 0}])
def test_a_bag_becomes_tiles_on_the_slide(
    tmp_path: Path, features: Any, corners: Any, attributes: dict[str, Any]
) -> None:
    path = write(tmp_path / "S 1.h5", features, corners, attributes)
    sdata = rbg.io.read_bag_h5(path, um_per_px=0.25)
    table, tiles = sdata.tables["table"], sdata.shapes["S_1_tiles"]
    np.testing.assert_array_equal(table.obsm["X_features"], features)
    bounds = tiles.geometry.bounds.to_numpy()
    np.testing.assert_array_equal(bounds[:, :2], corners)
    np.testing.assert_array_equal(bounds[:, 2:], corners + SIDE)
    np.testing.assert_array_equal(table.obsm["spatial"], corners + SIDE / 2)
    assert list(table.obs["instance_id"]) == list(tiles.index)
    rbg.io.write_sdata(sdata, tmp_path / "S1.zarr")
    again = SpatialData.read(tmp_path / "S1.zarr")
    np.testing.assert_array_equal(again.tables["table"].obsm["X_features"], features)
    back = tmp_path / "back.h5"
    # Rows keep their tiles whatever their order.
    shuffled = np.random.default_rng(1).permutation(N)[:-3]
    again.tables["table"] = again.tables["table"][shuffled].copy()
    rbg.io.write_bag_h5(again, back, table_key="table", feature_key="X_features")
    bag = rbg.io.H5Bag(back)
    np.testing.assert_array_equal(bag.read(), features[shuffled])
    np.testing.assert_array_equal(bag.coords, corners[shuffled])
    assert bag.attributes["patch_size_level0"] == bag.attributes["patch_size"] == SIDE
    assert bag.attributes.get("level0_magnification") == attributes.get("level0_magnification")


def test_a_predicted_slide_becomes_a_bag_of_its_pixels(
    tmp_path: Path, model: Any, make_slides: Any
) -> None:
    from spatialdata.transformations import Affine, set_transformation

    (source,) = make_slides(1)
    sdata = SpatialData(images=dict(source.images))
    (image,) = sdata.images.values()
    model.predict_slide(sdata)
    table, tiles = sdata.tables["rankbygene"], sdata.shapes["rankbygene_tiles"]
    # The slide is turned in its coordinate system; the coordinates stay those of its pixels.
    turned = Affine([[0, -2, 7], [2, 0, 3], [0, 0, 1]], ("x", "y"), ("x", "y"))
    for element in (image, tiles):
        set_transformation(element, {"global": turned}, set_all=True)
    rbg.io.write_bag_h5(sdata, tmp_path / "S1.h5")
    bag = rbg.io.H5Bag(tmp_path / "S1.h5")
    np.testing.assert_array_equal(bag.read(), table.obsm["X_rankbygene"])
    bounds = tiles.geometry.bounds.to_numpy()
    np.testing.assert_allclose(bag.coords, bounds[:, :2], atol=0.51)
    assert bag.attributes["patch_size"] == round(bounds[0, 2] - bounds[0, 0])
    height, width = (bag.attributes[f"level0_{side}"] for side in ("height", "width"))
    assert (height, width) == tuple(rbg.data.level_array(image, 0).shape[1:])
    with pytest.raises(FileExistsError):
        rbg.io.write_bag_h5(sdata, tmp_path / "S1.h5")
    rbg.io.write_bag_h5(sdata, tmp_path / "S1.h5", overwrite=True, patch_size=100)
    shrunk = rbg.io.H5Bag(tmp_path / "S1.h5")
    middle = (bounds[:, :2] + bounds[:, 2:]) / 2
    np.testing.assert_allclose(shrunk.coords, middle - 50, atol=0.51)


def test_what_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, features: Any, corners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "S1.h5", features, corners, TRIDENT)
    sdata = rbg.io.read_bag_h5(path)
    before = path.read_bytes()
    wanted = {"table_key": "table", "feature_key": "X_features", "overwrite": True}

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py.AttributeManager, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rbg.io.write_bag_h5(sdata, path, **wanted)
    sdata.tables["table"].obsm["X_features"][3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        rbg.io.write_bag_h5(sdata, path, **wanted)
    with pytest.raises(KeyError, match="X_features"):
        rbg.io.write_bag_h5(sdata, path, **(wanted | {"feature_key": "X_other"}))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["S1.h5"]


def test_spots_do_not_tell_the_width_of_a_tile(
    tmp_path: Path, model: Any, make_slides: Any
) -> None:
    (sdata,) = make_slides(1)
    model.predict_slide(sdata, shapes_key=next(iter(sdata.shapes)))
    with pytest.raises(ValueError, match="no squares.*patch_size"):
        rbg.io.write_bag_h5(sdata, tmp_path / "S1.h5")
    rbg.io.write_bag_h5(sdata, tmp_path / "S1.h5", patch_size=224)
    assert rbg.io.H5Bag(tmp_path / "S1.h5").attributes["patch_size"] == 224


def test_faults_are_named_with_the_file(tmp_path: Path, features: Any, corners: Any) -> None:
    path = tmp_path / "S1.h5"
    with pytest.raises(ValueError, match=r"S1\.h5 cannot be read: there is no file"):
        rbg.io.H5Bag(path)
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(ValueError, match=r"S1\.h5 cannot be read as HDF5"):
        rbg.io.H5Bag(path)
    whole = write(path, features, corners).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"S1\.h5 cannot be read as HDF5"):
        rbg.io.H5Bag(path)
    with pytest.raises(KeyError, match=r"no dataset 'feats'; it has \['coords', 'features'\]"):
        rbg.io.H5Bag(write(path, features, corners), features_key="feats")
    with pytest.raises(ValueError, match=r"empty.*\(0, 6\)"):
        rbg.io.H5Bag(write(path, features[:0]))
    with pytest.raises(ValueError, match=r"shape \(23,\)"):
        rbg.io.H5Bag(write(path, features[:, 0]))
    with pytest.raises(ValueError, match=r"shape \(2, 23, 6\)"):
        rbg.io.H5Bag(write(path, np.stack([features, features])))
    with pytest.raises(TypeError, match="not numbers"):
        rbg.io.H5Bag(write(path, np.array([[b"a", b"b"]])))
    with pytest.raises(ValueError, match=r"coords.*\(22, 2\), but there are 23 tiles"):
        rbg.io.H5Bag(write(path, features, corners[:-1]))
    broken = features.copy()
    broken[[4, 9]] = np.inf
    bag = rbg.io.H5Bag(write(path, broken, corners))
    with pytest.raises(ValueError, match=r"S1\.h5: 2 of 23 tiles.*not finite \(first: 4, 9\)"):
        bag.read()
    assert bag.read(np.array([1, 2])).shape == (2, D)
    with pytest.raises(ValueError, match="23 tiles; rows 0 to 23"):
        bag.read(np.arange(N + 1))


def test_a_bag_without_places_or_width_is_no_slide(
    tmp_path: Path, features: Any, corners: Any
) -> None:
    path = write(tmp_path / "S1.h5", features)
    assert rbg.io.H5Bag(path).coords is None
    with pytest.raises(ValueError, match="no coordinates"):
        rbg.io.read_bag_h5(path)
    write(path, features, corners)
    with pytest.raises(ValueError, match=r"attributes: none.*patch_size"):
        rbg.io.read_bag_h5(path)
    write(path, features, corners, CLAM | {"custom_downsample": 2})
    with pytest.raises(ValueError, match="custom_downsample.*patch_size"):
        rbg.io.read_bag_h5(path)
    with pytest.raises(ValueError, match="patch_size is -1"):
        rbg.io.read_bag_h5(path, patch_size=-1)
    assert rbg.io.read_bag_h5(path, patch_size=7).shapes["S1_tiles"].area.unique() == [49]


def test_no_flipped_bit_of_a_written_bag_goes_unnoticed(
    tmp_path: Path, features: Any, corners: Any
) -> None:
    sdata = rbg.io.read_bag_h5(write(tmp_path / "source.h5", features, corners, TRIDENT))
    path = tmp_path / "S1.h5"
    rbg.io.write_bag_h5(sdata, path, table_key="table", feature_key="X_features")

    def read() -> tuple[Any, ...]:
        bag = rbg.io.H5Bag(path)
        places = None if bag.coords is None else bag.coords.tolist()
        return bag.read().tolist(), places, {k: str(v) for k, v in bag.attributes.items()}

    whole, expected = path.read_bytes(), read()
    assert expected[:2] == (features.tolist(), corners.tolist())
    assert not any("crc32" in name for name in expected[2])
    noticed = 0
    for place in range(0, len(whole), 31):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read() == expected, place
        except RankByGeneError as error:
            assert "S1.h5" in str(error)
            noticed += 1
    assert noticed >= (features.nbytes + corners.nbytes) // 31
    # Once per file as it is: the second reading compares nothing, another file is compared anew.
    path.write_bytes(whole)
    bag = rbg.io.H5Bag(path)
    bag.read(np.array([3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankbygene.io._hdf5._checksum", lambda _: pytest.fail("compared again"))
        np.testing.assert_array_equal(bag.read()[3], features[3])
    with h5py.File(path, "r+") as file:
        file["features"][5, 2] += 1
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputValueError, match=r"'/features' of .*S1\.h5 is not what was written"):
        bag.read(np.array([3]))


@pytest.mark.parametrize("key", ["features", "coords"])
@pytest.mark.parametrize(
    "how", ["external storage", "external link", "link to a link", "virtual dataset"]
)
def test_a_bag_reads_no_other_file(
    tmp_path: Path, features: Any, corners: Any, how: str, key: str
) -> None:
    other, path = tmp_path / "other.h5", tmp_path / "S1.h5"
    write(other, features, corners)
    write(path, features, corners)
    values = {"features": features, "coords": corners}[key]
    secret = tmp_path / "secret"
    secret.write_bytes(values.tobytes())
    with h5py.File(path, "r+") as file:
        del file[key]
        if how == "external storage":
            file.create_dataset(
                key, values.shape, values.dtype, external=[(str(secret), 0, values.nbytes)]
            )
        elif how == "external link":
            file[key] = h5py.ExternalLink(str(other), key)
        elif how == "link to a link":
            file["inner/far"] = h5py.ExternalLink(str(other), key)
            file[key] = h5py.SoftLink("/inner/far")
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(other), key, values.shape)
            file.create_virtual_dataset(key, layout)
    with pytest.raises(InputValueError, match=r"S1\.h5 lies in another file"):
        rbg.io.H5Bag(path)
    # Within a file links are read.
    with h5py.File(other, "r+") as file:
        file.move(key, "kept/here")
        file[key] = h5py.SoftLink("kept/here")
    np.testing.assert_array_equal(rbg.io.H5Bag(other).read(), features)


@pytest.mark.parametrize(
    "declared", ["chunks", "one piece", "some", "compressed", "beyond its end"]
)
def test_rows_that_are_not_stored_are_refused_at_the_door(
    tmp_path: Path, features: Any, declared: str
) -> None:
    path, big = tmp_path / "S1.h5", (10**9, D)
    with h5py.File(path, "w") as file:
        if declared == "chunks":
            made = file.create_dataset("features", big, "f4", chunks=(1000, D))
            made[:N] = features
        elif declared == "one piece":
            file.create_dataset("features", big, "f4")
        elif declared == "some":
            made = file.create_dataset("features", (N, D), "f4", chunks=(4, D))
            made[:12] = features[:12]
        elif declared == "compressed":
            zeros = np.zeros((10**6, 20), "i4")
            file.create_dataset("features", data=zeros, chunks=zeros.shape, compression="gzip")
        else:
            file["features"] = features
    if declared == "beyond its end":
        content = path.read_bytes()
        at = content.index(np.array([N, D], "u8").tobytes())
        path.write_bytes(content[:at] + np.array(big, "u8").tobytes() + content[at + 16 :])
    expected = {
        "compressed": r"at most .* are read \(1000 times",
        "beyond its end": "cannot be read as HDF5",
    }.get(declared, "never written")
    with pytest.raises(InputValueError, match=expected):
        rbg.io.H5Bag(path)


def test_a_pipe_a_device_or_a_folder_is_no_bag(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "device.h5").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "device"):
        with pytest.raises(InputValueError, match=rf"{name}\.h5 .*not a regular file"):
            rbg.io.H5Bag(tmp_path / f"{name}.h5")
