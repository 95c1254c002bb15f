"""Checkpoints of the authors' training script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.nn import read_tensors

if TYPE_CHECKING:
    from rankbygene.methods.rankbygene._module import RankByGeneModule

__all__ = ["check_takes_released", "load_released_checkpoint"]

# Their prefix, then ours. Layers of the projection heads are renamed after it.
_PREFIXES = {
    "image_encoder.student_backbone.": "student.backbone.network.",
    "image_encoder.teacher_backbone.": "teacher.backbone.network.",
    "image_encoder.student_head.": "student.projection.",
    "image_encoder.teacher_head.": "teacher.projection.",
    "gene_encoder.": "gene_encoder.",
}
_LAYERS = {"fc.": "residual.", "layer_norm.": "norm."}
# What the checkpoint does not hold: prediction heads, and statistics of data.
_OURS_ALONE = ("student.predictor.", "teacher.predictor.", "expression_", "pixel_")


@checked
def load_released_checkpoint(path: str | Path, module: RankByGeneModule) -> None:
    """Load student, teacher and gene encoder from a checkpoint of the authors' code.

    Their gene encoder takes expression as it is, so the module's expression statistics are set to
    mean 0 and standard deviation 1. The prediction heads are left as they are: the checkpoint
    holds none.

    Parameters
    ----------
    path
        Checkpoint with tensors named ``image_encoder.student_backbone...`` and so on. It is read
        without running any code in it.
    module
        Module of the same encoder, latent width and number of genes.

    Raises
    ------
    InputValueError
        The tensors are named otherwise, or do not fit the module.

    References
    ----------
    :cite:p:`huang2024rankbygene`.
    """
    found = {_rename(name): tensor for name, tensor in read_tensors(Path(path)).items()}
    wanted = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not name.startswith(_OURS_ALONE)
    }
    _check_fit(found, wanted, Path(path))
    module.load_state_dict({name: found[name] for name in wanted}, strict=False)
    n_genes = module.n_genes
    module.set_expression_stats(torch.zeros(n_genes), torch.ones(n_genes))


def _rename(name: str) -> str:
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            if not ours.endswith("network."):
                for layer, renamed in _LAYERS.items():
                    rest = renamed + rest.removeprefix(layer) if rest.startswith(layer) else rest
            return ours + rest
    return name


def _check_fit(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path
) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        msg = (
            f"{path} is not a checkpoint of RankByGene's released code for this encoder: it lacks "
            f"{len(missing)} of {len(wanted)} tensors (first: {', '.join(missing[:3])}); it holds "
            f"{', '.join(sorted(found)[:3])}, ..."
        )
        raise InputValueError(msg)
    unfit = [name for name in wanted if found[name].shape != wanted[name].shape]
    if unfit:
        first = unfit[0]
        msg = (
            f"{len(unfit)} tensors of {path} do not fit the module (first: {first} is "
            f"{tuple(found[first].shape)}, needs {tuple(wanted[first].shape)}); use the encoder, "
            "n_latent and the gene panel, in its order, that the checkpoint was trained with"
        )
        raise InputValueError(msg)


def check_takes_released(head: str, fine_tune: str) -> None:
    """Refuse a model that the released checkpoints do not fit.

    Raises
    ------
    InputValueError
        It has another head, or student and teacher share weights.
    """
    if head != "frozen":
        msg = "the released checkpoints hold no prediction head; make the model with head='frozen'"
        raise InputValueError(msg)
    if fine_tune != "full":
        msg = (
            "the released checkpoints hold a student and a teacher that differ everywhere; make the "
            f"model with fine_tune='full', not {fine_tune!r}"
        )
        raise InputValueError(msg)
