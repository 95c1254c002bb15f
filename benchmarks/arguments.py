"""What public functions do with odd arguments: refuse them by name, or work.

Every public callable is called with valid tiny inputs, one argument at a time replaced by an odd value. A
case is *foreign* when something else than an error of ``rankbygene.errors`` comes out, and *silent*
when a value passes that can mean nothing there. Callables and parameters are found by inspection.

    python benchmarks/arguments.py --out benchmarks/results/arguments.json
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

import rankbygene as rbg
from rankbygene.errors import RankByGeneError
from rankbygene.methods._registry import public_names

PACKAGES = ("model", "data", "pp", "tl", "pl", "io", "datasets", "metrics", "nn", "nn.losses", "module", "train", "testing")  # fmt: skip

# Packages whose calls need trained models.
TRAINED = ("model", "tl", "pl", "io")

# Made anew for every case; some are used up by it.
ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: -float("inf"),
    "1e30": lambda: 1e30,
    "10**30": lambda: 10**30,
    "''": lambda: "",
    "'x'": lambda: "x",
    "'nan'": lambda: "nan",
    "b'x'": lambda: b"x",
    "[]": list,
    "{}": dict,
    "['x']": lambda: ["x"],
    "{'x': 1}": lambda: {"x": 1},
    "{1: 1}": lambda: {1: 1},
    "object()": object,
    "np.int64(3)": lambda: np.int64(3),
    "np.float32(.5)": lambda: np.float32(0.5),
    "np.array(3)": lambda: np.array(3),
    "np.array([1, 2])": lambda: np.array([1, 2]),
    "np.True_": lambda: np.True_,
    "pd.NA": lambda: pd.NA,
    "pd.Series": lambda: pd.Series([1.0, 2.0]),
    "set": lambda: {"a", "b"},
    "generator": lambda: (i for i in range(2)),
    "Path": lambda: Path("nowhere"),
    "lambda": lambda: lambda *a, **k: None,
    "1j": lambda: 1j,
    "SpatialData": lambda: WORLD.sdata,
}
# What an argument that is a number, a flag, ... cannot be, whatever it is called.
NO_NUMBER = {
    "True", "nan", "inf", "-inf", "10**30", "''", "'x'", "'nan'", "b'x'", "[]", "{}", "['x']", "{'x': 1}",
    "{1: 1}", "object()", "np.array([1, 2])", "np.True_", "pd.NA", "pd.Series", "set", "generator",
    "Path", "lambda", "1j", "SpatialData",
}  # fmt: skip
NO_COUNT = NO_NUMBER | {"1e30", "np.float32(.5)"}
NO_FLAG = set(ODD) - {"True", "np.True_"}
NO_TEXT = set(ODD) - {"'x'", "'nan'"}
NO_CHOICE = set(ODD)
NO_NAMES = set(ODD) - {"['x']"}
NO_MAPPING = set(ODD) - {"{}", "{'x': 1}"}
# Names of numbers that may be 0, or less.
MAY_BE_0 = re.compile(
    r"alpha|lr$|gene_lr|weight_decay|warmup|dropout|seed|validation_size|noise"
    r"|min_tissue|buffer_um|level|fill|jitter|grayscale|momentum|start|end|step$|ema_|cache_limit|memory_limit"
    r"|negative_logit_scale|x0|y0|min_|time|tau"
)
CHOICE = re.compile(r"Literal\[")


class Reached(Exception):
    """The slow step was reached, so that every argument passed."""


@dataclass(frozen=True)
class Case:
    """One argument of one call, and what came of it."""

    callable: str
    parameter: str
    value: str
    outcome: str  # "refused", "accepted", "foreign", "silent"
    text: str = ""


# ---- what is public --------------------------------------------------------------------------------


@cache
def public() -> dict[str, Any]:
    """Every public callable by name: functions, classes, and the methods of classes of data and models."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = import_module(f"rankbygene.{package}")
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing in found.values():
                continue
            found[f"{package}.{name}"] = thing
            if inspect.isclass(thing) and not issubclass(thing, _not_ours()):
                for method, function in inspect.getmembers(thing, callable):
                    home = str(getattr(function, "__module__", ""))
                    if method.startswith("_") or not home.startswith("rankbygene"):
                        continue
                    if [p for p in inspect.signature(function).parameters if p != "self"]:
                        found[f"{package}.{name}.{method}"] = function
    return found


def _not_ours() -> tuple[type, ...]:
    """Classes whose methods a framework calls."""
    import lightning.pytorch as pl

    return (torch.nn.Module, pl.LightningModule, pl.LightningDataModule, pl.Callback, tuple)


# ---- valid tiny inputs -----------------------------------------------------------------------------


class World:
    """Tiny valid inputs, each made once where nothing changes it."""

    cpu: ClassVar[dict[str, Any]] = {
        "accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False,
    }  # fmt: skip
    tiny: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet", "pretrained": False, "genes": 4, "tile_px": 32, "validation_size": 0.0,
    }  # fmt: skip

    @cached_property
    def folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="rankbygene-arguments-"))

    @cached_property
    def slides(self) -> list[Any]:
        slides = rbg.datasets.synthetic(2, 36, 8, seed=1)
        rbg.model.RankByGene.setup_spatialdata(slides)
        return slides

    @property
    def sdata(self) -> Any:
        return self.slides[0]

    def copy(self) -> Any:
        return self.copies([self.sdata])[0]

    @staticmethod
    def copies(slides: Iterable[Any]) -> list[Any]:
        from spatialdata import deepcopy

        return [deepcopy(sdata) for sdata in slides]

    @cached_property
    def frames(self) -> dict[str, Any]:
        return rbg.data.resolve_slides(self.slides)

    @property
    def frame(self) -> Any:
        return next(iter(self.frames.values()))

    @property
    def genes(self) -> list[str]:
        return list(self.frame.table.var_names[:4])

    @cached_property
    def bank(self) -> Any:
        return rbg.data.TileBank.build(self.frames, tile_um=112.0, tile_px=32)

    @cached_property
    def expression(self) -> Any:
        return rbg.data.ExpressionBank.build(self.frames, self.genes)

    @cached_property
    def split(self) -> Any:
        return rbg.data.split_spots(self.frames, validation_size=0.0)

    @property
    def network(self) -> Any:
        with torch.random.fork_rng():
            return rbg.nn.build_backbone("test_resnet", pretrained=False, tile_px=32)[0]

    @cached_property
    def module(self) -> Any:
        return rbg.module.RankByGeneModule(self.network, n_features=64, n_genes=4, head="frozen")

    @cached_property
    def joint(self) -> Any:
        return rbg.module.RankByGeneModule(self.network, n_features=64, n_genes=4)

    @cached_property
    def nh2st_module(self) -> Any:
        return rbg.module.NH2STModule(
            self.network, n_features=64, n_genes=4, tokens="vector", n_latent=16, n_hidden=16
        )

    def model(self, name: str = "RankByGene") -> Any:
        return self._models[name]

    @cached_property
    def untrained(self) -> dict[str, Any]:
        """Models that interrupted training may spoil."""
        return self._make_models()

    @cached_property
    def _models(self) -> dict[str, Any]:
        models = self._make_models()
        for model in models.values():
            model.train(1, batch_size=16, **self.cpu)
        return models

    def _make_models(self) -> dict[str, Any]:
        models = {}
        for name in public_names("model"):
            more = {"n_latent": 16, "n_hidden": 16, "tokens": "vector"} if name == "NH2ST" else {}
            models[name] = getattr(rbg.model, name)(self.slides, **self.tiny, **more, seed=0)
        return models

    @cached_property
    def cohort(self) -> Any:
        return rbg.datasets.synthetic_cohort(
            12, kind="bags", n_tiles=12, n_features=8, max_slides=1, seed=1
        )

    @cached_property
    def tables(self) -> Any:
        return rbg.datasets.synthetic_cohort(4, n_tiles=12, n_features=8, max_slides=1, seed=1)

    @cached_property
    def slide_models(self) -> dict[str, Any]:
        models = {}
        for name in ("SlideClassifier", "SlideSurvival"):
            cls = getattr(rbg.model, name)
            cls.setup_spatialdata(list(self.tables.slides.values()), feature_key="X_features")
            models[name] = cls(
                self.cohort.slides, self.cohort.clinical, n_hidden=8, validation_size=0.0, seed=0
            )
            models[name].train(1, **self.cpu)
        return models

    @cached_property
    def annotated(self) -> Any:
        model = self.model()
        copy = self.copy()
        rbg.model.RankByGene.setup_spatialdata(copy)
        model.annotate(copy)
        return copy

    @cached_property
    def attended(self) -> Any:
        model = self.slide_models["SlideClassifier"]
        name, slide = next(iter(self.tables.slides.items()))
        model.annotate({name: slide})
        return slide

    @cached_property
    def attended_image(self) -> Any:
        sdata = self.copy()
        sdata["table"].obsm["X_features"] = np.resize(self.y, (sdata["table"].n_obs, 8))
        rbg.model.SlideClassifier.setup_spatialdata(sdata, feature_key="X_features")
        self.slide_models["SlideClassifier"].annotate({"image": sdata})
        return sdata

    @cached_property
    def frozen(self) -> Any:
        return rbg.model.RankByGene(self.slides, **self.tiny, head="frozen", seed=0)

    @cached_property
    def result(self) -> Any:
        return rbg.tl.cross_validate(
            self.slides, "mean", groups="slide", allow_leaks=["patient"], baselines=("ridge",), references=(), genes=4,
            tile_um=112.0, tile_px=32, backbone="test_resnet", pretrained=False,
        )  # fmt: skip

    @cached_property
    def saved_result(self) -> Path:
        path = self.new()
        self.result.save(path)
        return path

    @cached_property
    def y(self) -> Any:
        return np.random.default_rng(0).normal(size=(12, 3))

    @cached_property
    def z(self) -> Any:
        return self.y + np.random.default_rng(1).normal(size=(12, 3))

    def prepare(self) -> None:
        """Train what later calls need."""
        for part in ("saved", "saved_slides", "annotated", "attended", "result"):
            getattr(self, part)

    labels = np.array([0, 1, 2] * 4)
    time = np.arange(1.0, 13.0)
    event = np.array([True, False, True] * 4)
    positions = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2)

    def tensor(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    @cached_property
    def images(self) -> torch.Tensor:
        return torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0))

    def new(self, suffix: str = "") -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / f"new{suffix}"

    @cached_property
    def saved(self) -> Path:
        path = self.new()
        self.model().save(path)
        return path

    @cached_property
    def saved_slides(self) -> dict[str, Path]:
        paths = {}
        for name, model in self.slide_models.items():
            paths[name] = self.new()
            model.save(paths[name])
        return paths

    @cached_property
    def h5(self) -> Path:
        import h5py

        path = self.new(".h5")
        with h5py.File(path, "w") as file:
            file["features"] = self.y.astype(np.float32)
            file["coords"] = (self.positions * 100).astype(np.int64)
            file["coords"].attrs.update({"patch_size": 100, "patch_size_level0": 100})
        return path

    @cached_property
    def store(self) -> Path:
        path = self.new(".zarr")
        self.copy().write(path)
        return path

    def stored(self) -> Any:
        import spatialdata as sd

        return sd.read_zarr(self.store)

    def stored_results(self) -> Any:
        sdata = self.stored()
        rbg.model.RankByGene.setup_spatialdata(sdata)
        self.model().annotate(sdata)
        return sdata

    @property
    def section(self) -> str:
        return str(self.sections.obs["slide"].iloc[0])

    @cached_property
    def sections(self) -> Any:
        return self.result.predictions


WORLD = World()
W = WORLD


def _pair() -> dict[str, Any]:
    return {"y_true": W.y, "y_pred": W.z, "groups": W.labels}


def _metrics() -> dict[str, Callable[[], dict[str, Any]]]:
    pair = ("pearson", "spearman", "concordance", "mae", "mse", "r2", "nrmse", "variance_ratio",
            "jensen_shannon", "relative_variation_distance", "gene_correlation_agreement")  # fmt: skip
    calls: dict[str, Callable[[], dict[str, Any]]] = {f"metrics.{name}": _pair for name in pair}
    for name in ("jensen_shannon", "relative_variation_distance"):
        calls[f"metrics.{name}"] = lambda: {
            "y_true": np.abs(W.y), "y_pred": np.abs(W.z), "groups": W.labels,
        }  # fmt: skip
    for name in ("ari", "nmi", "v_measure_of_labels"):
        calls[f"metrics.{name}"] = lambda: {"labels_true": W.labels, "labels_pred": W.labels[::-1]}
    for name in ("macro_f1", "balanced_accuracy"):
        calls[f"metrics.{name}"] = lambda: {"y_true": W.labels, "y_pred": W.labels[::-1]}
    for name in ("auroc", "auprc"):
        calls[f"metrics.{name}"] = lambda: {"y_true": W.event, "y_score": W.y[:, 0]}
    survival = {"time": W.time, "event": W.event}
    curves = np.tile([0.8, 0.5], (12, 1))
    for name in ("concordance_index", "concordance_index_ipcw"):
        calls[f"metrics.{name}"] = lambda: {**survival, "risk": W.y[:, 0]}
    for name in ("brier_score", "integrated_brier_score"):
        calls[f"metrics.{name}"] = lambda: {**survival, "survival": curves, "times": [3.0, 6.0]}
    return calls | {
        "metrics.time_dependent_auc": lambda: {**survival, "risk": W.y[:, 0], "times": [3.0, 6.0]},
        "metrics.logrank": lambda: {**survival, "groups": W.labels},
        "metrics.auc_expressed": lambda: {"expressed": W.y > 0, "y_pred": W.z, "groups": W.labels},
        "metrics.bootstrap_interval": lambda: {
            "statistic": lambda a: float(np.mean(a)), "arrays": W.time, "n": 20,
        },
        "metrics.bootstrap_mean": lambda: {"a": W.time, "n_resamples": 20},
        "metrics.paired_bootstrap": lambda: {"a": W.time, "b": W.time[::-1], "n_resamples": 20},
        "metrics.chaos": lambda: {"labels": W.labels, "positions": W.positions},
        "metrics.pas": lambda: {"labels": W.labels, "positions": W.positions, "n_neighbors": 3},
        "metrics.distance_r2": lambda: {"features": W.y, "expression": W.z, "n_pairs": 20},
        "metrics.moran_agreement": lambda: {
            "y_true": W.y, "y_pred": W.z,
            "graph": __import__("scipy.sparse").sparse.csr_array(np.ones((12, 12)) - np.eye(12)),
        },
        "metrics.oracle_top_k_mean": lambda: {"scores": W.time, "k": 3},
        "metrics.top_k_mean": lambda: {"scores": W.time, "k": 3, "ranking": W.time[::-1]},
        "metrics.pearson_per_spot": lambda: {"y_true": W.y, "y_pred": W.z},
        "metrics.rank_agreement": lambda: {"first": W.y, "second": W.z},
        "metrics.recall_at_k": lambda: {"image": W.y, "gene": W.z, "k": 2},
        "metrics.ssim": lambda: {"y_true": W.y, "y_pred": W.z, "array_index": W.positions},
        "metrics.v_measure": lambda: {"features": W.y, "expression": W.z, "k": 3},
    }  # fmt: skip


def _networks() -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "nn.color_statistics": lambda: {"images": W.images},
        "nn.color_texture_statistics": lambda: {"images": W.images},
        "nn.CrossAttention": lambda: {"n_features": 8, "n_heads": 2},
        "nn.ExpressionMLP": lambda: {"n_in": 4, "n_genes": 3, "n_hidden": 4},
        "nn.GatedAttention": lambda: {"n_in": 4},
        "nn.HypergraphConv": lambda: {"n_in": 4, "n_out": 3},
        "nn.HypergraphEncoder": lambda: {"n_in": 4, "n_hidden": 4, "n_out": 3},
        "nn.ResidualMLP": lambda: {"n_in": 4, "n_out": 3},
        "nn.SeedAttention": lambda: {"n_in": 8, "n_seeds": 2, "n_heads": 2},
        "nn.build_backbone": lambda: {"backbone": "test_resnet", "pretrained": False, "tile_px": 32},
        "nn.build_pooling": lambda: {"kind": "mean", "n_in": 8},
        "nn.normalize_pixels": lambda: {
            "images": W.images, "mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1),
        },
        "nn.orientations": lambda: {"images": W.images},
        "nn.read_tensors": lambda: {"path": "nowhere"},
        "nn.set_fine_tuning": lambda: {"backbone": W.network},
        "nn.similarity_hypergraph": lambda: {"features": W.tensor(2, 5, 4)},
        "nn.losses.cox_loss": lambda: {
            "log_hazard": W.tensor(12), "time": torch.tensor(W.time), "event": torch.tensor(W.event),
        },
        "nn.losses.discrete_time_loss": lambda: {
            "logits": W.tensor(12, 3), "interval": torch.tensor(W.labels), "event": torch.tensor(W.event),
        },
        "nn.losses.info_nce": lambda: {"query": W.tensor(4, 3), "key": W.tensor(4, 3)},
        "nn.losses.nt_xent": lambda: {"first": W.tensor(4, 3), "second": W.tensor(4, 3)},
        "nn.losses.ranking_consistency": lambda: {
            "image_similarity": W.tensor(4, 4), "gene_similarity": W.tensor(4, 4),
        },
        "nn.losses.soft_target_contrast": lambda: {"gene": W.tensor(6, 4), "image": W.tensor(6, 4)},
        "nn.losses.similarity": lambda: {"features": W.tensor(4, 3)},
        "module.ImageBranch": lambda: {
            "backbone": W.network, "projection": torch.nn.Identity(), "predictor": torch.nn.Identity(),
        },
        "module.NH2STModule": lambda: {
            "backbone": W.network, "n_features": 64, "n_genes": 4, "tokens": "vector", "n_latent": 16,
            "n_hidden": 16, "n_heads": 2,
        },
        "module.RankByGeneModule": lambda: {"backbone": W.network, "n_features": 64, "n_genes": 4},
        "module.SimCLRModule": lambda: {"backbone": W.network, "n_features": 64, "n_projection": 8},
        "module.SlideModule": lambda: {"n_features": 8, "n_outputs": 2, "n_hidden": 8},
        "module.load_released_checkpoint": lambda: {
            "path": "nowhere", "module": W.module,
        },
        "train.BestWeights": dict,
        "train.FiniteLoss": dict,
        "train.NH2STPlan": lambda: {"module": W.nh2st_module},
        "train.RankByGenePlan": lambda: {"module": W.joint},
        "train.SimCLRPlan": lambda: {
            "module": rbg.module.SimCLRModule(W.network, n_features=64, n_projection=8)
        },
        "train.SlidePlan": lambda: {
            "module": rbg.module.SlideModule(8, 2, n_hidden=8), "objective": lambda outputs, batch: outputs.sum(),
        },
        "train.default_momentum": lambda: {"n_updates": 10},
        "train.momentum_schedule": lambda: {"step": 1, "n_steps": 10},
        "train.strong_view": lambda: {"images": W.images, "generator": torch.Generator()},
        "train.weak_view": lambda: {"images": W.images, "generator": torch.Generator()},
        "train.update_teacher": lambda: {
            "teacher": torch.nn.Linear(2, 2), "student": torch.nn.Linear(2, 2), "momentum": 0.5,
        },
        "train.fit_head": lambda: {
            "module": W.module, "features": W.tensor(12, 64), "targets": W.tensor(12, 4),
            "measured": torch.ones(12, 4, dtype=torch.bool), "train": torch.arange(8),
            "validation": torch.arange(8, 12), "max_epochs": 1, "batch_size": 4,
        },
        "train.fit_statistics": lambda: {
            "layer": torch.nn.Linear(3, 3), "statistics": W.y, "expression": W.z,
        },
        "train.encoders_for_training": lambda: {"module": W.module},
        "train.whole_state": lambda: {"module": torch.nn.Linear(2, 2)},
    }  # fmt: skip


def _data() -> dict[str, Callable[[], dict[str, Any]]]:
    level = lambda: {"image": W.sdata.images[W.frame.image_key]}
    return {
        "data.ArrayBag": lambda: {"name": "a", "features": W.y.astype(np.float32)},
        "data.ArrayBag.read": lambda: {"self": rbg.data.ArrayBag("a", W.y.astype(np.float32))},
        "data.PooledBag": lambda: {"name": "a", "bags": [rbg.data.ArrayBag("a", W.y.astype(np.float32))]},
        "data.TableBag": lambda: {
            "name": "a", "sdata": next(iter(W.tables.slides.values())),
            "setup": rbg.data.BagSetup(feature_key="X_features"),
        },
        "data.BagSetup": dict,
        "data.BagDataModule": lambda: {
            "bags": list(W.cohort.slides.values()), "targets": {"label": np.arange(12) % 2},
            "train": np.arange(12),
        },
        "data.ExpressionBank.build": lambda: {"frames": W.frames, "genes": W.genes},
        "data.TileBank.build": lambda: {"frames": W.frames, "tile_um": 112.0, "tile_px": 32},
        "data.FeatureBank": lambda: {"tensors": {"features": W.tensor(4, 8, 3)}},
        "data.NeighbourhoodDataModule": lambda: {
            "bank": W.bank, "expression": W.expression, "split": W.split,
            "centers": [frame.centers for frame in W.frames.values()], "batch_size": 16, "group_size": 4,
        },
        "data.SpatialDataModule": lambda: {
            "bank": W.bank, "expression": W.expression, "split": W.split, "batch_size": 8,
        },
        "data.TileDataModule": lambda: {"bank": W.bank, "batch_size": 8},
        "data.Normalization": dict,
        "data.Normalization.from_dict": lambda: {"values": rbg.data.Normalization().to_dict()},
        "data.Normalization.from_counts": lambda: {"self": rbg.data.Normalization(), "scaled": np.abs(W.y)},
        "data.Normalization.to_counts_per_target": lambda: {"self": rbg.data.Normalization(), "values": W.y},
        "data.SpatialSetup": dict,
        "data.SpotSplit.rows": lambda: {"self": W.split, "label": "train"},
        "data.SpotSplit.sample": lambda: {"self": W.split, "frames": W.frames, "n_spots": 8},
        "data.TileReader": lambda: {"frame": W.frame, "tile_um": 112.0, "tile_px": 32},
        "data.compact_groups": lambda: {"points": W.positions.astype(float), "size": 3},
        "data.crop_tiles": lambda: {
            "level": rbg.data.level_array(W.sdata.images[W.frame.image_key], 0),
            "x0": np.array([0]), "y0": np.array([0]), "side": 8,
        },
        "data.stream_tiles": lambda: {
            "level": rbg.data.level_array(W.sdata.images[W.frame.image_key], 0),
            "x0": np.array([0]), "y0": np.array([0]), "side": 8,
        },
        "data.expression_matrix": lambda: {
            "frame": W.frame, "genes": W.genes, "normalization": rbg.data.Normalization(),
        },
        "data.frame_from_shapes": lambda: {"sdata": W.sdata, "shapes_key": W.frame.region},
        "data.join_clinical": lambda: {
            "bags": W.cohort.slides, "clinical": W.cohort.clinical, "columns": {"label": "label"},
        },
        "data.lattice_kind": lambda: {"frame": W.frame},
        "data.level_array": lambda: {**level(), "level": 0},
        "data.level_to_system": lambda: {**level(), "level": 0, "system": W.frame.coordinate_system},
        "data.n_levels": level,
        "data.local_places": lambda: {"neighbours": np.array([[0, 1], [1, 0]])},
        "data.nearest_spots": lambda: {"centers": W.frame.centers},
        "data.neighbour_graph": lambda: {"frame": W.frame},
        "data.patient_folds": lambda: {
            "clinical": W.cohort.clinical, "n_folds": 3, "label_key": "label",
        },
        "data.plan_tiles": lambda: {"frame": W.frame, "tile_um": 112.0, "tile_px": 32},
        "data.read_tiles": lambda: {"bag": next(iter(W.cohort.slides.values()))},
        "data.resize_tiles": lambda: {"tiles": np.zeros((2, 3, 8, 8), np.uint8), "px": 4},
        "data.resolve": lambda: {"sdata": W.sdata},
        "data.resolve_bags": lambda: {"slides": W.cohort.slides},
        "data.resolve_slides": lambda: {"sdatas": W.slides},
        "data.sample_bags": lambda: {"bags": W.cohort.slides},
        "data.smoothing_operator": lambda: {"graph": rbg.data.neighbour_graph(W.frame)},
        "data.split_spots": lambda: {"frames": W.frames},
        "data.spot_spacing": lambda: {"centers": W.frame.centers},
        "pp.check_panel": lambda: {"genes": W.genes, "frames": list(W.frames.values())},
        "pp.choose_panel": lambda: {"frames": list(W.frames.values()), "n_genes": 3},
        "pp.find_tissue_tiles": lambda: {"sdata": W.sdata},
        "pp.select_genes": lambda: {"sdatas": W.slides, "n_genes": 3},
        "pp.smooth_expression": lambda: {"sdata": W.copy()},
        "pp.tile_tissue": lambda: {"sdata": W.copy()},
        "io.H5Bag": lambda: {"path": W.h5},
        "io.atomic_directory": lambda: {"path": W.new()},
        "io.atomic_file": lambda: {"path": W.new()},
        "io.read_bag_h5": lambda: {"path": W.h5},
        "io.read_hest": lambda: {"sample_id": "TENX1", "path": W.folder},
        "io.read_legacy_st": lambda: {"counts": "a", "image": "b", "spots": "c"},
        "io.read_visium": lambda: {"path": W.folder},
        "io.repair_store": lambda: {"path": W.store},
        "io.read_wsi": lambda: {"path": W.folder / "a.tif"},
        "io.write_bag_h5": lambda: {
            "sdata": W.attended, "path": W.new(".h5"), "table_key": "table", "feature_key": "X_features",
            "patch_size": 100,
        },
        "io.write_results": lambda: {"sdata": W.stored_results()},
        "io.write_sdata": lambda: {"sdata": W.copy(), "path": W.new(".zarr")},
        "datasets.synthetic": lambda: {"n_slides": 1, "n_spots": 20, "n_genes": 8},
        "datasets.synthetic_cohort": lambda: {"n_patients": 4, "kind": "bags", "n_tiles": 8},
        "datasets.bcnb_labels": lambda: {"path": "nowhere"},
        "datasets.her2st": lambda: {"path": "nowhere"},
        "datasets.olfactory_bulb": lambda: {"path": "nowhere"},
        "datasets.tcga_case": lambda: {"slide": "TCGA-AB-1234-01Z-00-DX1.svs"},
        "datasets.tcga_clinical": lambda: {"path": "nowhere"},
        "testing.legal_slides": lambda: {"folder": W.folder},
        "testing.illegal_slides": lambda: {"fault": "no counts"},
    }  # fmt: skip


def _models() -> dict[str, Callable[[], dict[str, Any]]]:
    calls: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in public_names("model"):
        key = f"model.{name}"
        calls |= {
            key: lambda: {"sdata": W.slides, **W.tiny, "seed": 0},
            f"{key}.setup_spatialdata": lambda: {"sdata": W.copy()},
            f"{key}.train": lambda name=name: {
                "self": W.untrained[name], "max_epochs": 1, "batch_size": 16, **W.cpu,
            },
            f"{key}.annotate": lambda name=name: {"self": W.model(name), "sdata": W.copy()},
            f"{key}.get_latent_representation": lambda name=name: {
                "self": W.model(name), "sdata": W.sdata,
            },
            f"{key}.get_normalized_expression": lambda name=name: {
                "self": W.model(name), "sdata": W.sdata, "gene_list": W.model(name).genes[:2],
            },
            f"{key}.predict_slide": lambda name=name: {"self": W.model(name), "sdata": W.copy()},
            f"{key}.save": lambda name=name: {"self": W.model(name), "dir_path": W.new()},
            f"{key}.to_device": lambda name=name: {"self": W.model(name), "device": "cpu"},
        }  # fmt: skip
    calls["model.RankByGene.load"] = lambda: {"dir_path": W.saved}
    calls["model.RankByGene.load_released"] = lambda: {"self": W.frozen, "path": W.new()}
    for name in ("SlideClassifier", "SlideSurvival"):
        key = f"model.{name}"
        own = lambda name=name: {"self": W.slide_models[name]}
        calls |= {
            key: lambda: {"slides": W.cohort.slides, "clinical": W.cohort.clinical, "n_hidden": 8},
            # The slides of others stay as they were set up.
            f"{key}.setup_spatialdata": lambda: {"sdata": W.copies(W.tables.slides.values())},
            f"{key}.train": lambda name=name: {
                "self": getattr(rbg.model, name)(
                    W.cohort.slides, W.cohort.clinical, n_hidden=8, validation_size=0.0
                ),
                "max_epochs": 1, **W.cpu,
            },
            f"{key}.annotate": lambda own=own: {
                **own(), "slides": dict(list(W.tables.slides.items())[:1]),
            },
            f"{key}.get_attention": lambda own=own: {**own(), "slides": W.cohort.slides},
            f"{key}.predict": lambda own=own: {**own(), **_judged_patients()},
            f"{key}.save": lambda own=own: {**own(), "dir_path": W.new()},
            f"{key}.load": lambda name=name: {"dir_path": W.saved_slides[name]},
            f"{key}.to_device": lambda own=own: {**own(), "device": "cpu"},
        }  # fmt: skip
    calls["model.SlideSurvival.predict_survival"] = lambda: {
        "self": W.slide_models["SlideSurvival"], "times": [1.0, 2.0], **_judged_patients(),
    }  # fmt: skip
    return calls | {
        "model.fit": lambda: {
            "sdata": W.slides, "backbone": "test_resnet", "pretrained": False, "genes": 4,
            "model_kwargs": {"tile_px": 32, "validation_size": 0.0},
            "train_kwargs": {"batch_size": 16, **W.cpu}, "max_epochs": 1,
        },
        "model.load": lambda: {"dir_path": W.saved},
        "model.pretrain": lambda: {
            "sdatas": W.slides, "backbone": "test_resnet", "tile_px": 32, "batch_size": 4, **W.cpu,
        },
    }  # fmt: skip


def _judges() -> dict[str, Callable[[], dict[str, Any]]]:
    from sklearn.linear_model import Ridge

    plain = {"tile_um": 112.0, "tile_px": 32, "backbone": "test_resnet", "pretrained": False}
    return {
        "tl.cross_validate": lambda: {
            "sdatas": W.slides, "method": "mean", "groups": "slide", "allow_leaks": ["patient"], "baselines": (), "references": (),
            "genes": 4, **plain,
        },
        "tl.cross_validate_slides": lambda: {
            "slides": W.cohort.slides, "clinical": W.cohort.clinical, "poolings": (), "n_folds": 2,
            "n_resamples": 10,
        },
        "tl.evaluate": lambda: {"model": W.model(), "sdata": _unseen(), "baselines": ("mean",)},
        "tl.hest_bench": lambda: {
            "path": W.folder, "encoder": "test_resnet", "pretrained": False, "tasks": ["IDC"],
        },
        "tl.noise_ceiling": lambda: {"sdatas": W.slides, "genes": W.genes, "n_splits": 2},
        "tl.ModelMethod": dict,
        "tl.ModelMethod.over": lambda: {
            "self": rbg.tl.ModelMethod(), "model_kwargs": {}, "train_kwargs": {},
        },
        "tl.FeatureMethod": lambda: {"estimator": Ridge()},
        "tl.EnsembleMethod": lambda: {"members": {"a": "mean", "b": "ridge"}},
        "tl.NestedSelection": lambda: {"candidates": {"a": "mean", "b": "ridge"}},
        "tl.CrossValidation.compare": lambda: {"self": W.result, "a": "mean", "b": "ridge"},
        "tl.CrossValidation.top_k": lambda: {"self": W.result, "k": 2},
        "tl.CrossValidation.save": lambda: {"self": W.result, "path": W.new()},
        "tl.load_result": lambda: {"path": W.saved_result},
        "pl.attention_map": lambda: {"sdata": W.attended},
        "pl.top_tiles": lambda: {"sdata": W.attended_image, "n_tiles": 2, "tile_px": 32},
        "pl.calibration": lambda: {"predicted": np.linspace(0.1, 0.9, 12), "outcome": W.event},
        "pl.distance_agreement": lambda: {"adata": W.sections, "features": {"mean": "spatial"}, "slide": W.section, "n_pairs": 20},
        "pl.embedding_clusters": lambda: {"adata": W.sections, "features": {"mean": "spatial"}, "slide": W.section, "k": 2},
        "pl.gene_maps": lambda: {
            "adata": W.sections, "genes": list(W.sections.var_names[:1]), "layer": "mean",
            "slide": W.section,
        },
        "pl.gene_scatter": lambda: {
            "adata": W.sections, "genes": list(W.sections.var_names[:1]), "layer": "mean",
        },
        "pl.history": lambda: {"model": W.model(), "keys": ["train_loss"]},
        "pl.kaplan_meier": lambda: {"time": W.time, "event": W.event, "risk": W.y[:, 0]},
        "pl.scores": lambda: {"evaluation": W.result},
        "pl.spatial_expression": lambda: {"sdata": W.annotated, "genes": W.model().genes[:1]},
        "pl.tiles": lambda: {"sdata": W.sdata, "n_tiles": 2, "tile_px": 32},
    }  # fmt: skip


def _judged_patients() -> dict[str, Any]:
    patients = dict.fromkeys(W.cohort.slides, "a")
    return {"slides": W.cohort.slides, "level": "patient", "patients": patients}


@cache
def _unseen_once() -> Any:
    return rbg.datasets.synthetic(1, 36, 8, seed=9)


def _unseen() -> Any:
    sdata = _unseen_once()
    rbg.model.RankByGene.setup_spatialdata(sdata)
    return sdata


@cache
def calls() -> dict[str, Callable[[], dict[str, Any]]]:
    """How each public callable is called: keyword arguments that are valid, in tiny."""
    told = {**_metrics(), **_networks(), **_data(), **_models(), **_judges()}
    return {**_of_methods(told), **told}


def _of_methods(told: dict[str, Any]) -> dict[str, Callable[[], dict[str, Any]]]:
    """How what the methods of the registry bring is called, where nothing more is needed."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in public_names("model"):
        found[f"module.{name}Module"] = lambda: {
            "backbone": W.network,
            "n_features": 64,
            "n_genes": 4,
        }
        found[f"train.{name}Plan"] = lambda name=name: {"module": W.untrained[name].module}
        for key in public():
            if key.startswith(f"model.{name}.") and key not in told and not key.endswith(".load"):
                found[key] = lambda name=name: {"self": W.model(name), "sdata": W.sdata}
    return found


# Not called by a user with arguments of their own, with the reason.
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        (
            "data.Bag", "data.Bag.read", "module.SpotModule", "train.BatchPlan", "train.SpotPlan",
            "train.WatchedPlan", "base.SpotModel", "base.SpotModule", "base.SpotPlan",
            "base.SpotOptions", "base.own_options", "model.register",
        ),
        "a protocol or an abstract class",
    ),
    **dict.fromkeys(
        (
            "data.Cohort", "data.Cohort.select", "data.ExpressionBank", "data.SpotFrame",
            "data.SpotFrame.take", "data.SpotSplit", "data.TileBank", "data.TileBank.read_ahead",
            "data.TilePlan", "data.PooledBag.read", "data.TableBag.read", "io.H5Bag.read",
            "data.TileReader.read", "data.TileReader.stream", "datasets.SyntheticCohort",
            "model.PretrainedBackbone", "model.PretrainedBackbone.save", "module.Encoded", "io.Finding", "tl.EnsembleMethod.widest_tile",
            "tl.ModelMethod.widest_tile", "tl.NestedSelection.widest_tile",
            "module.NH2STOutput", "metrics.BootstrapInterval", "metrics.LogRank", "metrics.MoranAgreement",
            "metrics.RankAgreement", "metrics.RecallAtK", "metrics.VMeasure", "nn.BackboneSpec",
            "nn.PathologyBackbone", "tl.CrossValidation", "tl.Evaluation", "tl.HestBench",
            "tl.HestBench.to_json", "tl.NestedSelection.inner_scores", "tl.SlideEvaluation", "tl.TestData",
            "tl.TestData.features", "tl.TrainingData", "tl.TrainingData.features",
            "testing.LegalSlide", "testing.IllegalSlide",
        ),
        "a result, made by the package",
    ),
    **dict.fromkeys(
        ("nn.MaxPooling", "nn.MeanPooling", "train.SyncBatchNorm", "train.SyncBatchNorm.apply",
         "train.SyncBatchNorm.revert", "train.shard", "train.find_batch_size", "train.Resume",
         "train.read_checkpoint", "io.fill_store",
         *(f"model.{name}.load" for name in public_names("model") if name != "RankByGene")),
        "takes nothing, a device that is not there, or is tried under another name",
    ),
}  # fmt: skip


# What the unchanged call reads is not there: an odd value is refused before, or is never used.
NO_FILE = {
    "nn.read_tensors", "module.load_released_checkpoint", "io.read_hest", "io.read_legacy_st", "io.read_visium",
    "io.read_wsi", "datasets.bcnb_labels", "datasets.her2st", "datasets.olfactory_bulb", "datasets.tcga_clinical",
    "model.RankByGene.load_released", "tl.hest_bench",
}  # fmt: skip
# Values that have a meaning of their own.
MEANT = {("data.SpatialSetup", "table_key", "''")}
# Values that are allowed, with more tiles than can be waited for.
SLOW = {("model.pretrain", "step_um", "np.float32(.5)")}


# ---- one case --------------------------------------------------------------------------------------


def nonsense(parameter: inspect.Parameter) -> set[str]:
    """Name the odd values that can mean nothing for a parameter of this annotation and name."""
    text, name = str(parameter.annotation), parameter.name
    parts = {part.strip() for part in re.sub(r"\[.*?\]+", "", text).split("|")}
    if parts & {"Any", "ArrayLike", "NDArray", "MethodLike", "ClassWeight"}:
        return {"'x'", "b'x'", "object()", "1j"} if parts & {"NDArray"} else set()
    bad: set[str] = set(ODD)
    if "int" in parts:
        allowed = set(ODD) - NO_COUNT
        bad &= NO_COUNT if MAY_BE_0.search(name) else NO_COUNT | {"0", "-1"}
        if MAY_BE_0.search(name):
            bad |= {"-1"}
        del allowed
    if "float" in parts:
        bad &= NO_NUMBER if MAY_BE_0.search(name) else NO_NUMBER | {"0", "-1"}
        if MAY_BE_0.search(name):
            bad |= {"-1"}
    if "bool" in parts:
        bad &= NO_FLAG
    if "str" in parts and not CHOICE.search(text):
        bad -= {"'x'", "'nan'"}
    if "Path" in parts:
        bad -= {"Path", "'x'", "'nan'"}
    if parts & {"Sequence", "list", "tuple", "Iterable"}:
        bad -= {"['x']", "[]", "np.array([1, 2])", "pd.Series", "generator"}
    if parameter.default == ():
        bad -= {"[]"}
    if parts & {"Mapping", "dict"}:
        bad -= {"{}"}
        if "Any" in text or "Mapping[str, float]" in text:
            bad -= {"{'x': 1}"}
    if parts & {"Callable", "Objective"} or "Objective" in text:
        bad -= {"lambda"}
    if "SpatialData" in text or "Slides" in parts:
        bad -= {"SpatialData", "lambda"}
    if parts & {"None", "Activation"}:
        bad -= {"None"}
    known = {"int", "float", "bool", "str", "Path", "Sequence", "list", "tuple", "Mapping", "dict"}
    aliases = not parts & known and not CHOICE.search(text)
    return bad - {"None"} if aliases and "None" in text else bad


@contextlib.contextmanager
def short() -> Iterator[None]:
    """Stop where training would begin."""

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    homes = ("base.spots._model", "base.slides._model", "methods.simclr._pretrain")
    with contextlib.ExitStack() as stack:
        for home in homes:
            module = import_module(f"rankbygene.{home}")
            stack.enter_context(patch.object(module, "run_training", reached))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def call(function: Any, arguments: dict[str, Any]) -> Any:
    """Call with keyword arguments, and read what is lazy."""
    arguments = dict(arguments)
    positional = [arguments.pop("self")] if "self" in arguments else []
    variadic = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.VAR_POSITIONAL and p.name in arguments
    ]
    if variadic:
        first = next(iter(inspect.signature(function).parameters))
        positional += [arguments.pop(first), arguments.pop(variadic[0])]
    result = function(*positional, **arguments)
    if isinstance(result, contextlib.AbstractContextManager):
        with contextlib.suppress(FileNotFoundError), result:
            pass
    if inspect.isgenerator(result):
        return list(result)
    return result


def judge(name: str, parameter: inspect.Parameter, value: str) -> Case:
    """Replace one argument and see what comes out."""
    function = public()[name]
    arguments = {**calls()[name](), parameter.name: ODD[value]()}
    try:
        # A text or a path that passes names a file, which must not stay for the next case.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            call(function, arguments)
    except RankByGeneError as error:
        return Case(name, parameter.name, value, "refused", str(error))
    except Reached:
        pass
    except Exception as error:  # noqa: BLE001 - whatever comes out is counted
        where = [
            f for f in traceback.extract_tb(error.__traceback__) if "rankbygene/" in f.filename
        ]
        place = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
        return Case(
            name, parameter.name, value, "foreign", f"{type(error).__name__} {place} {error}"
        )
    if value in nonsense(parameter) and (name, parameter.name, value) not in MEANT:
        return Case(name, parameter.name, value, "silent")
    return Case(name, parameter.name, value, "accepted")


def refused_unchanged(names: Iterable[str]) -> dict[str, str]:
    """Give the calls that fail with the valid inputs: their cases say nothing."""
    found = {}
    for name in names:
        with short(), contextlib.suppress(Reached):
            try:
                call(public()[name], calls()[name]())
            except RankByGeneError as error:
                found[name] = str(error)
        _close()
    return found


def parameters(name: str) -> list[inspect.Parameter]:
    """Give the parameters of a callable that are tried."""
    found = inspect.signature(public()[name]).parameters.values()
    skipped = {"self", "show", "save", "ax", "callbacks", "logger", "n_jobs"}
    return [p for p in found if p.name not in skipped and p.kind not in (p.VAR_KEYWORD,)]


def names_of(packages: Iterable[str]) -> list[str]:
    """Name the callables that are tried of some packages."""
    return [name for name in calls() if name in public() and name.split(".")[0] in packages]


def campaign(share: int = 1, packages: tuple[str, ...] = PACKAGES) -> list[Case]:
    """Try every callable; of the values every ``share``-th, other ones for each parameter."""
    cases: list[Case] = []
    names = names_of(packages)
    if set(packages) & set(TRAINED):
        W.prepare()
    with short():
        for name in names:
            for place, parameter in enumerate(parameters(name)):
                tried = list(ODD)[(place + len(cases)) % share :: share]
                cases += [
                    judge(name, parameter, value)
                    for value in tried
                    if (name, parameter.name, value) not in SLOW
                ]
                _close()
    return cases


def _close() -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


def main() -> None:
    """Try everything and print the table."""
    from _machine import describe_machine, write_record

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES))
    arguments = parser.parse_args()
    logging.getLogger("rankbygene").setLevel(logging.ERROR)
    cases = campaign(arguments.share, tuple(arguments.packages))
    idle = refused_unchanged(names_of(arguments.packages))
    rows = Counter((case.callable, case.outcome) for case in cases)
    print("| callable | cases | refused | accepted | foreign | silent |\n|---|--:|--:|--:|--:|--:|")
    outcomes = ("refused", "accepted", "foreign", "silent")
    for name in dict.fromkeys(case.callable for case in cases):
        counts = [rows[name, outcome] for outcome in outcomes]
        print(f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    totals = Counter(case.outcome for case in cases)
    print(f"| all | {len(cases)} | {' | '.join(str(totals[outcome]) for outcome in outcomes)} |")
    for case in cases:
        if case.outcome in ("foreign", "silent"):
            print(
                f"{case.outcome}: {case.callable}({case.parameter}={case.value}) {case.text[:200]}"
            )
    for name, text in idle.items():
        print(f"{'no file' if name in NO_FILE else 'not valid'}: {name}() {text[:200]}")
    if arguments.out is not None:
        record = {
            "machine": describe_machine(),
            "totals": {outcome: totals[outcome] for outcome in outcomes},
            "packages": dict(Counter(case.callable.split(".")[0] for case in cases)),
            "refused_unchanged": sorted(idle),
            "callables": {
                name: {outcome: rows[name, outcome] for outcome in outcomes}
                for name in dict.fromkeys(case.callable for case in cases)
            },
        }
        write_record(record, arguments.out)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
