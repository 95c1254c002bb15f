from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import rankbygene as rbg
from rankbygene import cli
from rankbygene.io._hest_bench import patch_blocks, read_bench
from rankbygene.tl.cross_validation._regressors import HestRidge

GENES = [f"G{i}" for i in range(6)]
FOLDS = {
    "IDC": [(["S1", "S2"], ["S3"]), (["S1", "S3"], ["S2"]), (["S2", "S3"], ["S1"])],
    "PAAD": [(["T1"], ["T2"]), (["T2"], ["T1"])],
}
N_PATCHES, PX = 24, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pixels(torch.nn.Module):
    """Features without a sum, so that any other code gets the same bits: sixteen pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::56, ::56].flatten(1)


def write_sample(task: Path, name: str, rng: np.random.Generator, *, sparse: bool) -> None:
    """Write patches in one order and, in another, counts that follow their colour and more spots."""
    colors = rng.integers(30, 100, (N_PATCHES, 3))
    noise = rng.integers(0, 10, (N_PATCHES, PX, PX, 3))
    barcodes = np.array([f"{name}-{i:03d}x001" for i in range(N_PATCHES)])
    with h5py.File(task / "patches" / f"{name}.h5", "w") as file:
        # Even values, so that a test can halve them without rounding.
        file["img"] = (2 * (colors[:, None, None] + noise)).astype(np.uint8)
        file["coords"] = rng.integers(0, 1000, (N_PATCHES, 2))
        if sparse:
            file["barcode"] = barcodes.astype(object)
        else:
            file["barcode"] = barcodes.astype("S")[:, None]
    rates = np.exp(1 + np.repeat(colors, 2, axis=1) / 50)
    counts = np.vstack([rng.poisson(rates), rng.poisson(2, (5, len(GENES)))])
    spots = pd.DataFrame(index=[*barcodes, *(f"{name}-off{i}" for i in range(5))])
    genes = pd.DataFrame(index=[*GENES, "other"])
    values = np.column_stack([counts, rng.poisson(9, len(counts))])
    matrix = csr_matrix(values.astype(np.float32)) if sparse else values.astype(np.uint16)
    table = ad.AnnData(X=matrix, obs=spots, var=genes)
    order = rng.permutation(table.n_obs), rng.permutation(table.n_vars)
    table[order[0]][:, order[1]].copy().write_h5ad(task / "adata" / f"{name}.h5ad")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks in the layout of the published folder; tests must not change them."""
    root = tmp_path_factory.mktemp("hest-bench")
    for seed, (name, folds) in enumerate(FOLDS.items()):
        task = root / name
        for part in ("splits", "patches", "adata"):
            (task / part).mkdir(parents=True)
        (task / "var_50genes.json").write_text(json.dumps({"genes": GENES}))
        rng = np.random.default_rng(seed)
        for sample in sorted({s for train, test in folds for s in train + test}):
            write_sample(task, sample, rng, sparse=name == "PAAD")
        for k, sides in enumerate(folds):
            for kind, samples in zip(("train", "test"), sides, strict=True):
                rows = [(s, f"patches/{s}.h5", f"adata/{s}.h5ad") for s in samples]
                frame = pd.DataFrame(rows, columns=["sample_id", "patches_path", "expr_path"])
                frame.to_csv(task / "splits" / f"{kind}_{k}.csv", index=False)
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(published, tmp_path / "bench")


def run(path: Path, encoder: Any = None, **kwargs: Any) -> Any:
    settings = {"tasks": ["IDC", "PAAD"], "baselines": ["mean"], "device": "cpu"}
    return rbg.tl.hest_bench(path, encoder or Pixels(), **(settings | kwargs))


def edit_counts(folder: Path, task: str, name: str, edit: Callable[[ad.AnnData], Any]) -> None:
    path = folder / task / "adata" / f"{name}.h5ad"
    table = ad.read_h5ad(path)
    (edit(table) or table).copy().write_h5ad(path)


def read_by_hand(task: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(task / "patches" / f"{name}.h5") as file:
        pixels = file["img"][:, ::56, ::56].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(
            255
        )
        barcodes = file["barcode"][:].ravel().astype(str)
    mean, std = (np.float32(v).reshape(3, 1, 1) for v in (MEAN, STD))
    table = ad.read_h5ad(task / "adata" / f"{name}.h5ad").to_df()
    counts = table.loc[barcodes, GENES].to_numpy(np.float64)
    return ((pixels - mean) / std).reshape(N_PATCHES, -1), np.log1p(counts)


def by_hand(task: Path, train: list[str], test: list[str]) -> list[float]:
    """Correlations of the genes in a fold, from scikit-learn and SciPy alone."""
    read = {name: read_by_hand(task, name) for name in train + test}
    x, y = (np.concatenate([read[name][i] for name in train]) for i in (0, 1))
    new, truth = (np.concatenate([read[name][i] for name in test]) for i in (0, 1))
    n = min(256, len(x) - 1, x.shape[1])
    reduce = Pipeline([("scaler", StandardScaler()), ("pca", PCA(n, random_state=1))])
    reduced = reduce.fit_transform(x)
    alpha = 100 / (n * len(GENES))
    ridge = Ridge(alpha, solver="lsqr", fit_intercept=False, max_iter=1000).fit(reduced, y)
    predicted = ridge.predict(reduce.transform(new))
    return [pearsonr(truth[:, i], predicted[:, i])[0] for i in range(len(GENES))]


@pytest.mark.parametrize("variant", ["corrected", "released"])
def test_scores_are_those_of_an_independent_pipeline(published: Path, variant: str) -> None:
    result = run(published, variant=variant, batch_size=7)
    scores = result.per_gene.query("method == 'encoder'")
    tasks = {}
    for name, folds in FOLDS.items():
        means = []
        for k, (train, test) in enumerate(folds):
            expected = by_hand(published / name, train, test)
            here = scores[(scores["task"] == name) & (scores["fold"] == k)].set_index("gene")[
                "pearson"
            ]
            np.testing.assert_allclose(here[GENES], expected, atol=1e-6)
            means.append(np.mean(expected))
        tasks[name] = np.mean(means)
        assert result.summary.loc[name, ("encoder", "mean")] == pytest.approx(tasks[name], abs=1e-6)
        assert result.summary.loc[name, ("encoder", "std")] == pytest.approx(
            np.std(means), abs=1e-6
        )
    average = result.summary.loc["average", ("encoder", "mean")]
    assert average == pytest.approx(np.mean(list(tasks.values())), abs=1e-6)
    assert average > 0.3


def test_the_regression_keeps_256_components_and_the_published_penalty() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 300)) * rng.uniform(0.1, 9, 300) + 5
    targets = np.log1p(rng.poisson(np.exp(1 + 0.1 * features[:, :50])))
    head = HestRidge(fit_intercept=False, seed=1).fit(
        features[:500].astype(np.float32), targets[:500]
    )
    scaled = (features - features[:500].mean(0)) / features[:500].std(0)
    axes = np.linalg.svd(scaled[:500], full_matrices=False)[2][:256]
    reduced = scaled @ axes.T
    gram = reduced[:500].T @ reduced[:500] + 100 / (256 * 50) * np.eye(256)
    expected = reduced[500:] @ np.linalg.solve(gram, reduced[:500].T @ targets[:500])
    predicted = head.predict(features[500:].astype(np.float32))
    # lsqr stops at a relative 1e-4; the neglected intercept leaves the predictions around zero.
    np.testing.assert_allclose(predicted, expected, atol=5e-3)
    assert abs(predicted.mean()) < 0.1 * targets.mean()


def test_baselines_stand_beside_it(published: Path) -> None:
    result = run(published, baselines=("mean", "ridge"))
    assert list(result.summary.columns.get_level_values(0).unique()) == ["encoder", "mean", "ridge"]
    assert result.summary["mean", "mean"].isna().all()
    assert result.summary.loc["average", ("ridge", "mean")] > 0.3
    # Without an intercept the benchmark's predictions lie around zero, far from the counts.
    errors = result.per_gene.groupby("method")["mse"].mean()
    assert errors["ridge"] < errors["mean"] < errors["encoder"]
    alone = run(published, baselines=())
    pd.testing.assert_frame_equal(alone.summary[["encoder"]], result.summary[["encoder"]])


@pytest.mark.parametrize("poison", ["patches", "counts"])
def test_a_poisoned_test_fold_changes_nothing_fitted(folder: Path, poison: str) -> None:
    """Map what is tested linearly: a correlation stays as it was if nothing was fitted on it."""

    def scores() -> pd.DataFrame:
        frame = run(folder, tasks=["IDC"], baselines=()).per_gene
        return frame.pivot(index="fold", columns="gene", values="pearson")

    before = scores()
    if poison == "patches":
        with h5py.File(folder / "IDC" / "patches" / "S3.h5", "r+") as file:
            file["img"][:] = file["img"][:] // 2 + 20
    else:

        def double_log(table: ad.AnnData) -> None:
            table.X = ((1 + table.X.astype(np.int64)) ** 2 - 1).astype(np.int64)

        edit_counts(folder, "IDC", "S3", double_log)
    after = scores()
    np.testing.assert_allclose(after.loc[0], before.loc[0], atol=1e-5)
    assert (after.loc[[1, 2]] - before.loc[[1, 2]]).abs().to_numpy().max() > 1e-3


def test_a_patch_without_a_spot_is_left_out_or_stops(folder: Path) -> None:
    lost = "S2-003x001"
    edit_counts(folder, "IDC", "S2", lambda table: table[table.obs_names != lost])
    with pytest.warns(UserWarning, match="1 of 24 patches of IDC/S2 have no spot"):
        result = run(folder)
    assert result.provenance["tasks"]["IDC"]["patches"]["S2"] == {"used": 23, "stored": 24}
    with pytest.raises(KeyError, match=rf"S2\.h5 have no spot in .*S2\.h5ad \(first: {lost}"):
        run(folder, variant="released")
    (sample,) = [read_bench(folder, ["IDC"])["IDC"].samples["S2"]]
    rows, tiles = zip(*patch_blocks(sample, 5), strict=True)
    assert [len(block) for block in tiles] == [4, 5, 5, 5, 4]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(23))
    with h5py.File(sample.patches) as file:
        kept = np.delete(file["img"][:], 3, axis=0)
    np.testing.assert_array_equal(np.concatenate(tiles).transpose(0, 2, 3, 1), kept)


def test_a_constant_gene_is_left_out_or_spoils_the_mean(folder: Path) -> None:
    def silence(table: ad.AnnData) -> None:
        table.X[:, table.var_names.get_loc("G4")] = 0

    edit_counts(folder, "IDC", "S3", silence)
    with pytest.warns(UserWarning, match=r"1 genes of IDC, fold 0, are constant .* \(G4\)"):
        result = run(folder)
    scores = result.per_gene.query("task == 'IDC' and method == 'encoder'")
    folds = [scores.query("fold == @k and gene != 'G4'")["pearson"].mean() for k in (0,)]
    folds += [scores.query("fold == @k")["pearson"].mean() for k in (1, 2)]
    assert result.summary.loc["IDC", ("encoder", "mean")] == pytest.approx(np.mean(folds))
    released = run(folder, variant="released").summary["encoder", "mean"]
    assert released.isna().tolist() == [True, False, True]
    assert released["PAAD"] == result.summary.loc["PAAD", ("encoder", "mean")]


def test_encoders_come_by_name_and_modules_stay_as_they_were(
    published: Path, tmp_path: Path
) -> None:
    first, second = (
        run(published, "test_resnet", pretrained=False, tasks="PAAD", seed=3) for _ in range(2)
    )
    pd.testing.assert_frame_equal(first.per_gene, second.per_gene)
    other = run(published, "test_resnet", pretrained=False, tasks="PAAD", seed=4)
    assert (
        first.provenance["encoder"]["weights_hash"] != other.provenance["encoder"]["weights_hash"]
    )
    assert not first.provenance["complete"]

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 32, 32), torch.nn.Dropout(0.5))
    module[1].eval()
    scores = run(published, module, tasks="PAAD", pixel_stats=((0, 0, 0), (1, 1, 1)))
    assert module[0].training
    assert not module[1].training
    assert scores.provenance["encoder"]["mean"] == [0, 0, 0]

    path = tmp_path / "new" / "scores.json"
    scores.to_json(path)
    record = json.loads(path.read_text())
    assert (
        record["average"]["encoder"]["mean"] == scores.summary.loc["average", ("encoder", "mean")]
    )
    assert record["tasks"]["PAAD"]["mean"] == {"mean": None, "std": None}
    assert record["provenance"] == scores.provenance
    again = pd.DataFrame(record["per_gene"]["data"], columns=record["per_gene"]["columns"])
    pd.testing.assert_frame_equal(again, scores.per_gene, check_dtype=False)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        scores.to_json(path)
    scores.to_json(path, overwrite=True)
    assert [item.name for item in path.parent.iterdir()] == ["scores.json"]


def break_h5(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def resize(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        images = file["img"][:, :200, :200]
        del file["img"]
        file["img"] = images


def same_sample_twice(path: Path) -> None:
    path.write_text(path.read_text() + "S3,patches/S3.h5,adata/S3.h5ad\n")


def drop_gene(table: ad.AnnData) -> ad.AnnData:
    return table[:, table.var_names != "G2"]


def normalise(table: ad.AnnData) -> None:
    table.X = np.log1p(table.X.astype(np.float32))


@pytest.mark.parametrize(
    ("file", "damage", "kind", "text"),
    [
        ("patches/S1.h5", Path.unlink, ValueError, r"S1\.h5 is missing; download S1\.h5 again"),
        ("patches/S1.h5", break_h5, ValueError, r"S1\.h5 cannot be read as HDF5"),
        ("patches/S1.h5", resize, ValueError, r"holds patches uint8 \(24, 200, 200, 3\)"),
        ("adata/S2.h5ad", Path.unlink, ValueError, r"S2\.h5ad is missing"),
        ("adata/S2.h5ad", break_h5, ValueError, r"S2\.h5ad cannot be read as h5ad"),
        ("adata/S2.h5ad", drop_gene, KeyError, r"lacks 1 of the 6 genes .*G2"),
        ("adata/S2.h5ad", normalise, ValueError, r"does not hold counts"),
        ("splits/test_1.csv", Path.unlink, ValueError, r"not complete: test_1\.csv missing"),
        (
            "splits/train_0.csv",
            same_sample_twice,
            ValueError,
            r"S3 in both train_0\.csv and test_0",
        ),
        ("var_50genes.json", Path.unlink, ValueError, r"var_50genes\.json is missing"),
        ("var_50genes.json", lambda p: p.write_text("[]"), ValueError, r"must hold a JSON object"),
        ("var_50genes.json", lambda p: p.write_text("{}"), ValueError, r"gene names under 'genes'"),
    ],
)
def test_missing_and_damaged_parts_are_named(
    folder: Path, file: str, damage: Any, kind: type[Exception], text: str
) -> None:
    if damage in (drop_gene, normalise):
        edit_counts(folder, "IDC", Path(file).stem, damage)
    else:
        damage(folder / "IDC" / file)
    with pytest.raises(kind, match=text):
        run(folder)


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    (folder / "IDC" / "patches" / "S1.h5").unlink()
    (folder / "IDC" / "adata" / "S3.h5ad").unlink()
    (folder / "PAAD" / "splits" / "train_0.csv").write_text("sample_id\nT1\n")
    with pytest.raises(ValueError, match=r"(?s)S1\.h5 is missing.*S3\.h5ad is missing.*no column"):
        run(folder)
    with pytest.raises(ValueError, match=r"no folder for the tasks PRAD, .*hf download"):
        run(folder, tasks=None)


def test_options_and_features_are_checked(published: Path) -> None:
    for options, text in (
        ({"variant": "paper"}, "'corrected', 'released'"),
        ({"baselines": ["color"]}, "'mean', 'ridge'"),
        ({"precision": "bf16"}, "'bf16-mixed'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"tasks": []}, "tasks="),
        ({"pixel_stats": ((0,), (1,))}, "three means"),
    ):
        with pytest.raises(ValueError, match=text):
            run(published, **options)

    class Broken(Pixels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) / 0

    with pytest.raises(RuntimeError, match=r"NaN or infinite features for 24 of 24 patches"):
        run(published, Broken())


def test_command_line(published: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"

    def invoke(path: Path, *more: str) -> Any:
        words = ["hest-bench", str(path), "--out", str(out), "--no-pretrained", "--device", "cpu"]
        return CliRunner().invoke(cli.app, [*words, *more])

    common = ["--encoder", "test_resnet", "--tasks", "PAAD,IDC"]
    done = invoke(published, *common)
    assert done.exit_code == 0, done.output
    assert "average" in done.stdout
    record = json.loads(out.read_text())
    assert list(record["tasks"]) == ["PAAD", "IDC"]
    assert f"{record['average']['encoder']['mean']:.3f}" in done.stdout.splitlines()[-1]
    taken = invoke(published, *common)
    assert taken.exit_code == 2
    assert "--overwrite" in taken.stderr
    out.unlink()
    break_h5(folder / "IDC" / "patches" / "S1.h5")
    broken = invoke(folder, *common)
    assert broken.exit_code == 2
    assert "S1.h5" in broken.stderr
    unknown = invoke(published, "--encoder", "resnet19", "--tasks", "PAAD")
    assert unknown.exit_code == 2
    assert "resnet18" in unknown.stderr
    assert not out.exists()
