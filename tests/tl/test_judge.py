"""What a method can reach, how far blocks are apart, and what is carried from slides to their copies."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge
from spatialdata.models import PointsModel, TableModel
from spatialdata.transformations import get_transformation, remove_transformation

import rankbygene as rbg
from rankbygene.base._setup import recall_setup
from rankbygene.data import Normalization, resolve_slides
from rankbygene.tl import EnsembleMethod, ModelMethod, NestedSelection
from rankbygene.tl.cross_validation._copies import light_copy
from rankbygene.tl.cross_validation._data import ImageSettings, TileFeatures, held_out_frames, sides
from rankbygene.tl.cross_validation._folds import Fold, make_folds
from rankbygene.tl.cross_validation._protocol import widest_tile

# No pixel, coordinate or id has this value.
POISON = 7_654_321


def poison(sdata: Any, rows: Any) -> None:
    """Put a value that is nowhere else wherever an object can carry something of its spots."""
    table = sdata["table"]
    counts = table.X.toarray()
    counts[rows] = POISON
    table.raw = ad.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=table.var_names))
    table.X = sparse.csr_matrix(counts)
    table.layers["dense"] = counts.copy()
    column = np.where(np.isin(np.arange(table.n_obs), rows), float(POISON), 0.0)
    table.obs["column"] = column
    table.obsm["X_pca"] = counts[:, :3].copy()
    table.obsp["graph"] = sparse.csr_matrix(np.outer(column, column))
    table.var["mean"] = float(POISON)
    table.varm["loadings"] = np.full((table.n_vars, 2), POISON)
    table.uns["own"] = {"counts": counts.copy()}
    (image,), (shapes,) = sdata.images.values(), sdata.shapes.values()
    shapes["counts"] = column
    shapes.attrs["own"] = counts.copy()
    for node in image.children.values():
        node["image"].attrs["own"] = counts.copy()
        node.attrs["own"] = counts.copy()
    image.attrs["own"] = counts.copy()
    other = table.copy()
    other.uns.pop("spatialdata_attrs")
    sdata["other"] = TableModel.parse(other)
    places = pd.DataFrame({"x": [1.0], "y": [1.0], "count": [float(POISON)]})
    sdata["points"] = PointsModel.parse(places, coordinates={"x": "x", "y": "y"})
    sdata.attrs["own"] = counts.copy()


def reachable(start: Any) -> Iterator[Any]:
    """Walk over everything that an object leads to, but for modules, classes and their globals."""
    seen: set[int] = set()
    pending = [start]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, types.ModuleType | type | types.FrameType):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, types.FunctionType):
            pending += [item.__closure__, item.__defaults__, item.__dict__]
        elif isinstance(item, np.ndarray):
            pending.append(item.base)
            if item.dtype == object:
                pending += item.ravel().tolist()
        else:
            pending += gc.get_referents(item)
            # Views and properties that hold no reference of their own.
            if isinstance(item, ad.AnnData):
                pending += [item.X, item.raw, item.uns, item.obsm, item.layers]


def holds_poison(item: Any) -> bool:
    if isinstance(item, np.ndarray) and item.dtype.kind in "iuf":
        return bool((item == POISON).any())
    return isinstance(item, int | float) and item == POISON


def leaks(start: Any) -> int:
    return sum(holds_poison(item) for item in reachable(start))


def test_nothing_that_a_method_receives_leads_to_held_out_counts(
    make_slides: Any, cross_validate: Any
) -> None:
    slides = make_slides(3, n_patients=3)
    poison(slides[0], np.arange(slides[0]["table"].n_obs))
    assert leaks(slides[0]) > 10  # the walk finds what is there
    calls = []

    def method(train: Any) -> Any:
        calls.append(leaks(train))
        train.features("backbone")

        def predict(test: Any) -> np.ndarray:
            test.features("color_texture")
            calls.append(leaks(test) + leaks(train))
            return np.zeros((sum(map(len, test.rows.values())), len(train.genes)))

        return predict

    def candidate(train: Any) -> Any:
        return method(train)

    cross_validate(
        slides,
        {"own": method, "nested": NestedSelection({"own": candidate, "mean": "mean"})},
        only_folds=["patient_0"],
        baselines=(),
        references=(),
    )
    assert len(calls) == 2 + 2 * 2 + 2
    assert not any(calls)


def test_the_training_side_of_a_block_leads_to_no_other_spot_of_its_slide(
    make_slides: Any,
) -> None:
    (slide,) = make_slides(1, n_spots=150)
    image = ImageSettings("test_resnet", False, None, 100.0, 32)
    (fold, *_) = make_folds(
        resolve_slides(slide), "block", tile_um=100.0, normalization=Normalization()
    )
    ((name, rows),) = fold.train.items()
    outside = np.setdiff1d(np.arange(150), rows)
    poison(slide, outside)
    frames = resolve_slides(slide)
    train, test = sides(
        frames,
        fold,
        TileFeatures(image),
        genes=list(slide["table"].var_names[:5]),
        normalization=Normalization(),
        image=image,
        seed=0,
    )
    train.features("color_texture")
    assert leaks(frames)
    assert not leaks(train)
    assert not leaks(test)
    copy = train.slides[name]
    assert copy["table"].n_obs == len(rows) == len(next(iter(copy.shapes.values())))
    assert set(copy["table"].uns) == {"spatialdata_attrs"}
    assert copy["table"].raw is None


def test_methods_cannot_change_what_others_see(make_slides: Any, cross_validate: Any) -> None:
    slides = make_slides(3, n_patients=3)
    before = [sdata["table"].X.copy() for sdata in slides]

    def vandal(train: Any) -> Any:
        for sdata in train.slides.values():
            sdata["table"].X.data[:] = 1e6
            (shapes,) = sdata.shapes.values()
            shapes["radius"] = 0.0
            get_transformation((*sdata.images.values(),)[0], get_all=True).clear()
        train.genes.clear()
        for rows in train.rows.values():
            rows[:] = 0

        def predict(test: Any) -> np.ndarray:
            for sdata in test.slides.values():
                sdata["table"].obs["array_row"] = 0
            return np.zeros((sum(map(len, test.rows.values())), 8))

        return predict

    alone = cross_validate(make_slides(3, n_patients=3), "ridge", baselines=())
    both = cross_validate(slides, {"vandal": vandal, "ridge": "ridge"}, baselines=())
    own = both.per_gene.query("method == 'ridge'").reset_index(drop=True)
    pd.testing.assert_frame_equal(
        own, alone.per_gene.query("method == 'ridge'").reset_index(drop=True)
    )
    for sdata, counts in zip(slides, before, strict=True):
        assert (sdata["table"].X != counts).nnz == 0


# ---- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "width"),
    [
        (ModelMethod(), 100.0),
        (ModelMethod(model_kwargs={"tile_um": 220}), 220.0),
        (ModelMethod(model_kwargs={"context_um": [300.0, 200]}), 300.0),
        (NestedSelection({"a": ModelMethod(model_kwargs={"context_um": [260.0]})}), 260.0),
        (
            EnsembleMethod(
                {"a": "ridge", "b": NestedSelection({"c": ModelMethod("nh2st", {"tile_um": 150})})}
            ),
            150.0,
        ),
        ("ridge", 100.0),
    ],
)
def test_no_training_tile_shows_what_a_held_out_tile_shows(
    make_slides: Any, monkeypatch: pytest.MonkeyPatch, method: Any, width: float
) -> None:
    """Squares as wide as the widest tile, in any direction, around spots of two sides are disjoint."""
    from rankbygene.tl.cross_validation import _cross_validate

    (slide,) = make_slides(1, n_spots=400)
    folds = []

    def stop(study: Any, fold: Any, *_: Any) -> None:
        folds.append((study.frames, fold))
        raise KeyboardInterrupt

    monkeypatch.setattr(_cross_validate, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        rbg.tl.cross_validate(
            slide, method, groups="block", baselines=("mean",), references=(),
            backbone="test_resnet", pretrained=False, tile_um=100.0, tile_px=32, genes=5,
        )  # fmt: skip
    ((frames, fold),) = folds
    (frame,) = frames.values()
    (train,), (test,) = fold.train.values(), fold.test.values()
    centers = frame.centers_um
    for angle in np.linspace(0, np.pi / 2, 7):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = centers @ turn
        gap = np.abs(turned[train][:, None] - turned[test]).max(-1).min()
        assert gap > width
    near = np.linalg.norm(centers[:, None] - centers[test], axis=2).min(1)
    kept = np.isin(np.arange(400), train)
    # Nothing is left out beyond need: smoothing reaches three spots of 100 um.
    assert kept[near > max(np.sqrt(2) * width, 350)].all()


def test_a_methods_own_width_is_asked_for() -> None:
    image = ImageSettings("test_resnet", False, None, 100.0, 32)

    class Wide:
        def widest_tile(self, settings: Any) -> float:
            return 4 * settings.tile_um

    assert widest_tile(Wide(), image) == 400
    assert widest_tile(lambda train: None, image) == 100


def test_regions_of_one_place_are_not_two_slides(make_slides: Any, cross_validate: Any) -> None:
    (slide,) = make_slides(1)
    (name,) = slide.shapes
    slide["again"] = slide[name].copy()
    table = slide["table"].copy()
    twin = table.copy()
    twin.X = sparse.csr_matrix(np.random.default_rng(0).poisson(5, twin.shape).astype(np.float32))
    twin.obs_names = [f"twin_{spot}" for spot in twin.obs_names]
    key = table.uns["spatialdata_attrs"]["region_key"]
    instance = table.uns["spatialdata_attrs"]["instance_key"]
    both = ad.concat([table, twin])
    del both.obs["patient"]
    both.obs[key] = pd.Categorical([name] * table.n_obs + ["again"] * table.n_obs)
    slide["table"] = TableModel.parse(
        both, region=[name, "again"], region_key=key, instance_key=instance
    )
    with pytest.raises(ValueError, match=r"within a tile of spots.*same image"):
        cross_validate(slide, "mean", groups="slide")
    found = cross_validate(slide, "mean", groups="slide", allow_leaks=["window"], baselines=())
    assert set(found.per_gene["slide"]) == {name, "again"}


# ---- what was resolved once -----------------------------------------------------------------------


def without_micrometres(sdata: Any) -> Any:
    for element in (*sdata.images.values(), *sdata.shapes.values()):
        for system in list(get_transformation(element, get_all=True)):
            if system != "global":
                remove_transformation(element, system)
    return sdata


@pytest.mark.parametrize("told", ["uns", "uns without lattice", "reader", "set-up"])
def test_copies_keep_the_scale_of_their_slide(
    make_slides: Any, cross_validate: Any, told: str
) -> None:
    slides = [without_micrometres(sdata) for sdata in make_slides(3, n_patients=3)]
    setup = rbg.data.SpatialSetup()
    for sdata in slides:
        ((region, shapes),) = sdata.shapes.items()
        table = sdata["table"]
        if told.startswith("uns"):
            factors = {"scalefactors": {"microns_per_pixel": 1.3}}
            table.uns["spatial"] = {region: factors}
        if told == "set-up":
            setup = replace(setup, um_per_px={item: 1.3 for s in slides for item in s.shapes})
        if told in ("uns without lattice", "reader"):
            del table.obs["array_row"], table.obs["array_col"]
        if told == "reader":
            sdata.attrs["spatialdata_io_reader"] = "visium"
            shapes["radius"] = 55 / 1.3 / 2
    frames = resolve_slides(slides, setup)
    fold = Fold("0", {}, {name: np.arange(3, 30) for name in frames})
    copies = {
        name: light_copy(frame, fold.test[name], patient=None, with_counts=False)
        for name, frame in frames.items()
    }
    blind = resolve_slides(copies, recall_setup, counts=False)
    for found in (blind, held_out_frames(frames, fold)):
        for name, frame in frames.items():
            own = found[name]
            assert own.um_per_unit == frame.um_per_unit == pytest.approx(1.3)
            assert own.um_source == frame.um_source
            assert (own.image_key, own.coordinate_system) == (
                frame.image_key,
                frame.coordinate_system,
            )
            np.testing.assert_array_equal(own.centers, frame.centers[3:30])
            again = light_copy(own, np.arange(5), patient="p", with_counts=False)
            (twice,) = resolve_slides(again, recall_setup, counts=False).values()
            assert twice.um_per_unit == frame.um_per_unit
    if told == "uns":
        seen: list[float] = []

        def method(train: Any) -> Any:
            seen.extend(frame.um_per_unit for frame in train.frames.values())

            def predict(test: Any) -> np.ndarray:
                seen.extend(frame.um_per_unit for frame in test.frames.values())
                return np.zeros((sum(map(len, test.rows.values())), len(train.genes)))

            return predict

        nested = NestedSelection({"own": method, "ridge": "ridge"})
        cross_validate(slides, {"own": method, "nested": nested}, only_folds=[0], baselines=())
        assert len(seen) >= 3 + 2 * 2
        assert set(seen) == {1.3}


def test_a_part_of_a_slide_without_lattice_has_none(make_slides: Any) -> None:
    """One unplaced spot leaves the slide without array indices; a part without that spot as well."""
    (slide,) = make_slides(1)
    slide["table"].obs["array_row"] = slide["table"].obs["array_row"].astype(float)
    slide["table"].obs.loc[slide["table"].obs_names[0], "array_row"] = np.nan
    (frame,) = resolve_slides(slide).values()
    copy = light_copy(frame, np.arange(5, 30), patient=None, with_counts=True)
    (part,) = resolve_slides(copy, recall_setup).values()
    assert frame.array_index is None
    assert part.array_index is None


# ---- before anything slow -------------------------------------------------------------------------


def test_input_is_checked_before_weights_are_loaded(
    make_slides: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from rankbygene.tl.cross_validation import _cross_validate

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(_cross_validate, "build_backbone", load)
    slides = make_slides(3, n_patients=3)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("x.zarr", {}, "SpatialData"),
        (None, {}, "SpatialData"),
        ([], {}, "at least one"),
        ({"a": "x.zarr"}, {}, "SpatialData"),
        ((item for item in slides), {}, "SpatialData"),
        (slides, {"method": "magic"}, "'magic' is not known"),
        (slides, {"method": {}}, "no method"),
        (slides, {"method": Ridge}, r"the class Ridge; pass an object of it, Ridge\(\)"),
        (slides, {"method": "mean", "baselines": (), "model_kwargs": {"x": 1}}, "no argument 'x'"),
        (slides, {"method": "mean", "train_kwargs": {"max_epochs": 0}}, "max_epochs.* is 0"),
        (slides, {"allow_leaks": None}, "allow_leaks is None"),
        (slides, {"method": {"a/b": "ridge"}}, "without '/'"),
        (slides, {"baselines": ["magic"]}, "'magic' is not known"),
        (slides, {"references": ["magic"]}, "not known"),
        (slides, {"groups": "hospital"}, "neither"),
        (slides, {"groups": 3}, "groups is"),
        (slides, {"n_splits": 7}, "3 groups only"),
        (slides, {"n_splits": 1}, "at least 2"),
        (slides, {"allow_leaks": "patient"}, r"a list of values, such as \['patient'\]"),
        (slides, {"allow_leaks": ["all"]}, r"allow_leaks\[0\] is 'all'"),
        (slides, {"only_folds": [3]}, "no fold 3"),
        (slides, {"only_folds": []}, "at least one"),
        (slides, {"only_folds": [0, "patient_0"]}, "different folds"),
        (slides, {"seeds": (0, 0)}, "different numbers"),
        (slides, {"genes": ["no such gene"]}, "no such gene"),
        (slides, {"store": 3}, "store is 3 of type int; a path"),
        (slides, {"store": tmp_path / "file"}, "is a file"),
        (slides, {"store": tmp_path / "folder"}, "other files"),
    ]
    for sdatas, kwargs, text in wrong:
        with pytest.raises(rbg.errors.RankByGeneError, match=text):
            rbg.tl.cross_validate(sdatas, **kwargs)
    assert not (tmp_path / "store").exists()


def test_a_number_that_is_also_a_name_is_not_guessed(make_slides: Any, cross_validate: Any) -> None:
    slides = make_slides(3, n_patients=3)
    for number, sdata in enumerate(slides):
        sdata["table"].obs["patient"] = number + 1
    with pytest.raises(ValueError, match=r"fold 1 is the name of one fold and the number"):
        cross_validate(slides, "mean", only_folds=[1], baselines=(), references=())
    named = cross_validate(slides, "mean", only_folds=["1"], baselines=(), references=())
    assert named.runs["fold"].tolist() == ["1"]


def test_predictions_of_another_kind_are_named(make_slides: Any, cross_validate: Any) -> None:
    slides = make_slides(3, n_patients=3)

    def run(predict: Any) -> None:
        cross_validate(slides, {"f": lambda train: predict}, baselines=(), references=())

    with pytest.raises(TypeError, match="a function of TestData"):
        run(3)
    with pytest.raises(TypeError, match="not an array of numbers"):
        run(lambda test: sparse.csr_matrix(np.ones((40, 8))))
    with pytest.raises(ValueError, match="columns are not the panel"):
        run(lambda test: pd.DataFrame(np.ones((40, 8)), columns=list("abcdefgh")))
