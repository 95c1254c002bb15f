"""Context said once, for training and for prediction: a toy method that sees all kinds of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spatialdata import SpatialData
from torch import nn

import rankbygene as rbg
from rankbygene.base.spots._context import Alone, Context, Neighbours, WholeSlide, Widths
from rankbygene.base.spots._features import keep_context
from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._module import SpotModule
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.data import SpotSplit, nearest_spots
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.io._parts import Parts
from rankbygene.nn.encoders._orientations import orientations

LABELS = ("train", "validation", "test", "buffer", "unused")
KINDS: dict[str, dict[str, Any]] = {
    "alone": {},
    "frozen neighbours": {"near": 5},
    "whole slide": {"whole": True},
    "all": {"live": 4, "near": 5, "whole": True, "wide": 200.0},
}


class Colours(nn.Module):
    """Mean colours of the quarters of a tile: nothing to train."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


def mean_of(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Mean over the places that are there."""
    there = (places >= 0).unsqueeze(-1)
    return (features[places.clamp(min=0)] * there).sum(1) / there.sum(1)


class ToyModule(SpotModule):
    def __init__(self, backbone: nn.Module, n_features: int, n_genes: int, spec: Any) -> None:
        super().__init__(n_genes, spec.mean, spec.std)
        self.backbone, self.colours = backbone, Colours()
        self.own = nn.Linear(n_features, n_genes)
        self.near, self.far = nn.Linear(12, n_genes), nn.Linear(12, n_genes)

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.backbone]

    @property
    def context_encoder(self) -> nn.Module:
        return self.colours

    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": torch.stack([self.encode(view) for view in orientations(images)], 1)}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        widths = [self.normalize_images(width) for width in images.split(3, 1)]
        return torch.stack([self.backbone(width) for width in widths]).mean(0)

    def forward(self, features: Any, seen: dict[str, torch.Tensor], slide: Any) -> torch.Tensor:
        if "neighbours" in seen:
            features = mean_of(features, seen["neighbours"])
        found = self.own(features)
        if "context" in seen:
            found = found + self.near(mean_of(seen["context_features"], seen["context"]))
        return found if slide is None else found + self.far(slide)


class ToyPlan(SpotPlan):
    default_weights: ClassVar[Any] = {"expression": 1.0}

    def __init__(self, module: ToyModule, *, lr: float = 1e-2, seed: int = 0) -> None:
        super().__init__(
            module,
            weights=None,
            lr=lr,
            weight_decay=0.0,
            warmup=None,
            chunk_size=None,
            seed=seed,
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        whole = self.whole(batch)
        if whole.tiles is None:
            features = whole.targets["features"][:, 0]
        else:
            (features,) = self.encode(
                lambda tiles, _: (self.module.encode(tiles.images),), whole, generator
            )
        truth, predicted, measured, _ = self._judged(features, whole.targets)
        predicted = self.module.standardize(predicted)
        return {"expression": self._expression_error(predicted, truth, measured)}

    def judge(self, batch: Any) -> Any:
        kept = batch.get("features")
        features = self.module.encode(batch["image"]) if kept is None else kept[:, 0]
        return self._judged(features, batch)

    def _judged(self, features: torch.Tensor, batch: Any) -> Any:
        slide = batch["slide_features"].mean(0) if "slide_features" in batch else None
        predicted = self.module.to_training_scale(self.module(features, batch, slide))
        spots = batch["neighbours"][:, 0] if "neighbours" in batch else slice(None)
        return (
            batch["expression"][spots],
            predicted,
            batch["measured"][spots],
            batch["slide"][spots],
        )


class Toy(SpotModel):
    """Expression from means of features: of the spot, its neighbours, its slide.

    Parameters
    ----------
    live, near, whole, wide
        Neighbours by their pixels and by kept features; the whole slide; a wider tile.
    """

    method: ClassVar[str] = "toy"
    gives: ClassVar[Any] = frozenset({"latent", "expression"})
    _settings_of: ClassVar[Any] = {"plan_kwargs": (ToyPlan, ("module", "seed"))}
    slides_begun = 0

    @own_options
    def __init__(
        self,
        sdata: Any,
        *,
        live: int = 0,
        near: int = 0,
        whole: bool = False,
        wide: float = 0.0,
        **options: Unpack[SpotOptions],
    ) -> None:
        super().__init__(sdata, **options)

    def _build_module(self, network: nn.Module) -> ToyModule:
        return ToyModule(network, self.backbone.n_features, len(self.genes), self.backbone)

    def _build_plan(self, settings: dict[str, Any]) -> ToyPlan:
        return ToyPlan(self.module, seed=self.seed, **settings)

    def _context(self, plan: SpotPlan | None) -> Context:
        said = self.module_kwargs
        context: Context = Alone() & Widths(*([said["wide"]] if said["wide"] else []))
        if said["live"]:
            context = context & Neighbours(said["live"])
        if said["near"]:
            context = context & Neighbours(said["near"], frozen=True)
        return context & WholeSlide() if said["whole"] else context

    def _batch_settings(self, batch_size: int | str) -> dict[str, Any]:
        return {"group_size": 4} if self.module_kwargs["live"] else {}

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.encode(images)
        if self._context(None).looks_around:
            return {"features": features}
        predicted = self.module.to_training_scale(self.module(features, {}, None))
        return {"latent": features, "expression": predicted}

    def _slide_product(self, slide: Any) -> dict[str, torch.Tensor]:
        self.slides_begun += 1
        if not self.module_kwargs["whole"]:
            return {}
        total = sum(block.double().sum(0) for block in slide.blocks(7))
        return {"mean": (total / len(slide)).float()}

    def _combine(self, spots: Any) -> dict[str, torch.Tensor]:
        seen = {"neighbours": spots.neighbours}
        if spots.context is not None:
            seen |= {"context": spots.context, "context_features": spots.context_features}
        predicted = self.module(spots.values["features"], seen, spots.slide.get("mean"))
        # Places and positions are those of the spots, in parts as in the whole.
        latent = torch.cat([spots.own("features"), spots.position[spots.neighbours[:, 0]]], 1)
        return {"latent": latent, "expression": self.module.to_training_scale(predicted)}


def make(slides: Any, backbone: Any = None, **kwargs: Any) -> Toy:
    Toy.setup_spatialdata(slides, patient_key="patient")
    settings: dict[str, Any] = {"genes": 6, "tile_px": 16, "pretrained": False, "seed": 2}
    return Toy(slides, backbone=Colours() if backbone is None else backbone, **settings | kwargs)


def train(model: Toy, **kwargs: Any) -> Toy:
    settings = {"batch_size": 16, "accelerator": "cpu", "precision": "32-true", **kwargs}
    model.train(2, enable_progress_bar=False, **settings)
    return model


def batches_of(model: Toy, batch_size: int = 16, part: str = "train") -> tuple[Any, list[Any]]:
    """All batches of one pass, as the training would read them."""
    context = model._context(model._build_plan({}))
    kept = model._kept_context(context, torch.device("cpu"), "32-true")
    bank = model._expression_bank()
    module = model._build_datamodule(model.tiles, bank, None, kept, batch_size=batch_size)
    loader = module.train_dataloader() if part == "train" else module.val_dataloader()
    return module, list(loader)


# ---- what is said ------------------------------------------------------------------------------


def test_context_is_put_together_in_any_order() -> None:
    joined = Neighbours(25, frozen=True) & WholeSlide() & Widths(224) & Neighbours(9)
    assert joined == Widths(224) & Neighbours(9) & (WholeSlide() & Neighbours(25, frozen=True))
    assert joined.live_neighbours == Neighbours(9)
    assert joined.frozen_neighbours == Neighbours(25, frozen=True)
    assert joined.whole_slide and joined.keeps and joined.looks_around
    assert joined.widths(112.0) == (112.0, 224.0)
    assert Alone() & Widths() == Alone() and not Alone().looks_around
    assert (Widths(224) & Widths(448)).widths(112.0) == (112.0, 224.0, 448.0)
    assert Neighbours(9).looks_around and not Neighbours(9).keeps


def test_context_that_means_nothing_is_refused() -> None:
    with pytest.raises(InputValueError, match="says twice"):
        Neighbours(9) & WholeSlide() & Neighbours(4)
    with pytest.raises(InputTypeError, match="no context"):
        Alone() & 3  # type: ignore[operator]
    with pytest.raises(InputValueError, match="n is 0"):
        Neighbours(0)
    with pytest.raises(InputValueError, match="width of a tile"):
        Widths(224, -1)


# ---- what training sees ------------------------------------------------------------------------


def visible(labels: Any, one: int, other: int) -> bool:
    """Whether a spot may be seen by another, in words."""
    parts = {label for label in labels if label in LABELS[:3]}
    label = labels[other]
    if label == "unused" and len(parts) == 1:
        (label,) = parts
    return label in LABELS[:3] and label == labels[one]


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(
        st.lists(st.sampled_from(LABELS), min_size=1, max_size=12), min_size=1, max_size=3
    ),
    n=st.integers(1, 5),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_spot_of_another_part_is_ever_kept_for_a_training(labels, n, whole, seed) -> None:
    rng = np.random.default_rng(seed)

    class Frame:
        def __init__(self, n_obs: int, first: int) -> None:
            self.n_obs, self.first = n_obs, first
            self.centers = self.centers_um = rng.normal(size=(n_obs, 2))

    frames, first = {}, 0
    for number, own in enumerate(labels):
        frames[str(number)] = Frame(len(own), first)
        first += len(own)
    known = {str(i): np.array(own) for i, own in enumerate(labels)}
    used = {name: np.flatnonzero(own != "unused") for name, own in known.items()}
    assume(any(np.isin(own, LABELS[:3]).any() for own in known.values()))
    read: list[int] = []

    def stream(frame: Any, rows: Any) -> Any:
        read.extend(rows + frame.first)
        tiles = np.broadcast_to((rows + frame.first)[:, None, None, None], (len(rows), 3, 1, 1))
        yield np.arange(len(rows)), tiles.astype(np.uint8)

    context = Neighbours(n, frozen=True) & WholeSlide() if whole else Neighbours(n, frozen=True)
    kept = keep_context(
        context,
        frames,  # type: ignore[arg-type]
        SpotSplit(known, "block", "", 0),
        used,
        stream,
        lambda images: images[:, 0, 0].float(),
        device=torch.device("cpu"),
        batch_size=4,
        precision="32-true",
    )
    spot = 0
    for name, frame in frames.items():
        near = nearest_spots(frame.centers, n)
        for row in used[name]:
            if known[name][row] in LABELS[:3]:
                batch = kept.of(np.array([spot]))
                seen = batch["context_features"][:, 0].numpy() - frame.first
                wanted = [o if o >= 0 and visible(known[name], row, o) else -1 for o in near[row]]
                places = batch["context"][0].numpy()
                np.testing.assert_array_equal(np.where(places >= 0, seen[places], -1), wanted)
                np.testing.assert_array_equal(
                    batch["context_position"], frame.centers_um[seen.astype(int)].astype(np.float32)
                )
                if whole:
                    everyone = [o for o in range(frame.n_obs) if visible(known[name], row, o)]
                    found = batch["slide_features"][:, 0].numpy() - frame.first
                    assert sorted(found) == everyone
                    assert found[batch["place"][0]] == row
            spot += 1
    # Beside the first one, which is looked at for its size, each row is encoded once.
    assert len(set(read)) == len(read[1:])


def test_a_batch_holds_pixels_positions_and_kept_features_at_once(slides: Any) -> None:
    model = make(slides, **KINDS["all"])
    assert model.tile_widths == Toy.widths_of(112.0, KINDS["all"]) == (112.0, 200.0)
    module, batches = batches_of(model)
    centers = np.concatenate([f.centers_um for f in model.training_frames.values()])
    seen, storage = [], {}
    for batch in batches:
        spots = batch["spot"][batch["neighbours"][:, 0]]
        seen.extend(spots.tolist())
        np.testing.assert_array_equal(batch["position"], centers[batch["spot"]].astype(np.float32))
        assert batch["image"].dtype == torch.uint8 and len(batch["image"]) == len(batch["spot"])
        (number,) = set(batch["slide"].tolist())
        assert storage.setdefault(number, batch["slide_features"].data_ptr()) == (
            batch["slide_features"].data_ptr()
        )
        pixels = torch.as_tensor(model.tiles[spots.numpy()])
        own = Colours()(model.module.normalize_images(pixels[:, :3]))
        torch.testing.assert_close(batch["slide_features"][batch["place"]], own)
        torch.testing.assert_close(batch["context_features"][batch["context"][:, 0]], own)
        torch.testing.assert_close(
            batch["slide_position"][batch["place"]], batch["position"][batch["neighbours"][:, 0]]
        )
    assert sorted(seen) == sorted(module.train_idx.tolist())
    assert len(batches) == len(module.train_dataloader())
    second = [batch["spot"].tolist() for batch in module.train_dataloader()]
    again, _ = batches_of(model)
    again.start_at(1, 1)  # as a fit that goes on in the middle of its second pass
    assert [batch["spot"].tolist() for batch in again.train_dataloader()] == second[1:]
    assert again.fingerprint() == module.fingerprint()
    assert batches_of(make(slides, near=5))[0].fingerprint() != module.fingerprint()


def test_a_block_split_hides_held_out_pixels_from_the_other_side(make_slides: Any) -> None:
    with pytest.warns(UserWarning, match="shares slides"):
        model = make(make_slides(1), whole=True, split_by="block")
    (labels,) = model.split.labels.values()
    for part in ("train", "validation"):
        _, batches = batches_of(model, part=part)
        assert {len(batch["slide_features"]) for batch in batches} == {(labels == part).sum()}


def test_spots_that_a_sample_left_out_are_still_seen(slides: Any) -> None:
    model = make(slides, whole=True, max_spots=40)
    _, batches = batches_of(model, batch_size=8)
    assert len(model.training_split.rows("train")) < 50
    assert {len(batch["slide_features"]) for batch in batches} == {40}
    train(model, batch_size=8)
    held_out = {
        name: np.flatnonzero(labels == "validation") for name, labels in model.split.labels.items()
    }
    ((name, rows),) = [(name, rows) for name, rows in held_out.items() if len(rows)]
    predicted = model.get_normalized_expression()[name].to_numpy()[rows]
    bank = model._expression_bank()
    truth = bank.values[model.training_split.rows("validation")]
    np.testing.assert_allclose(
        model.validation_pearson, rbg.metrics.pearson(truth, predicted), rtol=1e-4, atol=1e-5
    )


def test_a_slide_with_too_few_spots_for_a_batch_of_its_own_is_named(slides: Any) -> None:
    model = make(slides, whole=True)
    few = model.training_split.labels[next(iter(model.frames))]
    few[1:] = "test"
    with pytest.raises(InputValueError, match=r"'slide_0_spots' has a batch of 1 .*compare 2"):
        train(model)


def test_parts_of_a_batch_join_to_the_whole(slides: Any) -> None:
    model = make(slides, **KINDS["all"])
    _, (batch, *_) = batches_of(model)
    halves = [
        {
            **{name: rows for name, rows in batch.items() if not name.startswith("slide_")},
            "neighbours": batch["neighbours"][part],
            "context": batch["context"][part],
        }
        for part in (slice(0, 5), slice(5, None))
    ]
    joined = model._build_plan({}).join(halves, [len(batch["spot"])] * 2)
    for places, rows in (("neighbours", "position"), ("context", "context_features")):
        was, now = ({n: b[n] for n in (places, rows)} for b in (batch, joined))
        there = was[places] >= 0
        assert torch.equal(now[places] >= 0, there)
        assert torch.equal(now[rows][now[places]][there], was[rows][was[places]][there])


def test_gradients_reach_the_encoder_by_live_pixels_alone(slides: Any) -> None:
    model = make(slides, backbone="test_resnet", **KINDS["all"])
    _, (batch, *_) = batches_of(model)
    plan = model._build_plan({})
    plan.losses(batch, torch.Generator())["expression"].backward()
    for name in ("backbone", "own", "near", "far"):
        weights = model.module.get_submodule(name).parameters()
        assert any(weight.grad is not None and weight.grad.any() for weight in weights), name
    assert not batch["slide_features"].requires_grad


def test_features_of_an_encoder_that_changes_are_not_kept(slides: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(ToyModule, "context_encoder", property(lambda self: self.backbone))
    model = make(slides, backbone="test_resnet", near=5)
    with pytest.raises(InputValueError, match=r"Neighbours\(n=5, frozen=True\).*fine_tune='none'"):
        train(model)


# ---- what prediction reads ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def toy(kind: str, make_slides: Any) -> Toy:
    return train(make(make_slides(3), **KINDS[kind]))


def test_a_model_trains_and_a_slide_in_parts_is_the_whole(
    kind: str, toy: Toy, make_slides: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    history = toy.history["validation_loss"].iloc[:, 0]
    assert history.iloc[-1] < history.iloc[0]
    toy.save(tmp_path / "model")
    model = Toy.load(tmp_path / "model", backbone=Colours())
    (source,) = make_slides(1, n_spots=64, seed=8)
    region = next(iter(source.shapes))
    sdata = SpatialData(images=dict(source.images), shapes=dict(source.shapes))
    model.predict_slide(sdata, shapes_key=region)
    whole = sdata.tables.pop("rankbygene")
    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 4)
    read: dict[str, list[int]] = {}
    wanted = Parts.read

    def counted(parts: Parts, name: str, rows: Any) -> Any:
        read.setdefault(name, []).append(len(rows))
        return wanted(parts, name, rows)

    monkeypatch.setattr(Parts, "read", counted)
    model.slides_begun = 0
    for index in (1, 0):
        model.predict_slide(sdata, shapes_key=region, out=tmp_path / "a.zarr", shard=(index, 2))
    parts = SpatialData.read(tmp_path / "a.zarr")["rankbygene"]
    order = whole.obs["instance_id"].astype(str).reset_index(drop=True)
    rows = [order[order == name].index[0] for name in parts.obs["instance_id"].astype(str)]
    np.testing.assert_array_equal(parts.X, whole.X[rows])
    np.testing.assert_array_equal(parts.obsm["X_toy"], whole.obsm["X_toy"][rows])
    assert model.slides_begun == (kind != "alone")
    if kind == "whole slide":  # once per slide, in blocks; and the parts' own rows
        assert sum(read["context_features"]) == 64 and max(read["context_features"]) == 7
        assert sum(read["features"]) == 64
    if kind == "frozen neighbours":
        assert len(read["context_features"]) == 16 and max(read["context_features"]) <= 4 * 5
        assert sum(read["features"]) == 64
    if kind == "all":
        assert sum(read["context_features"][:10]) == 64
        assert max(read["context_features"][10:]) <= 4 * 5 and max(read["features"]) <= 4 * 4


def test_own_data_is_described_and_predicted(kind: str, toy: Toy) -> None:
    latent = toy.get_latent_representation()
    predicted = toy.get_normalized_expression()
    assert all(np.isfinite(latent[name]).all() for name in toy.frames)
    assert all(predicted[name].shape == (40, 6) for name in toy.frames)
    assert toy.validation_pearson.notna().any()


def test_the_same_seed_and_kept_images_or_features_train_alike(slides: Any) -> None:
    one, same = (train(make(slides, **KINDS["all"])) for _ in range(2))
    kept = train(make(slides, fine_tune="none", **KINDS["all"]))
    for name, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, same.module.state_dict()[name])
        torch.testing.assert_close(tensor, kept.module.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork")
def test_two_processes_train_what_one_trains(slides: Any) -> None:
    one, many = (
        train(make(slides, **KINDS["all"]), **how)
        for how in ({}, {"devices": 2, "strategy": "ddp_fork"})
    )
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(tensor, many.module.state_dict()[name], rtol=0, atol=1e-5)
