"""Before training: gene panels, neighbourhood smoothing, tissue tiles."""

from __future__ import annotations

from rankbygene.pp._genes import PanelMethod, check_panel, choose_panel, select_genes
from rankbygene.pp._smooth import smooth_expression
from rankbygene.pp._tissue import find_tissue_tiles, tile_tissue

__all__ = [
    "PanelMethod",
    "check_panel",
    "choose_panel",
    "find_tissue_tiles",
    "select_genes",
    "smooth_expression",
    "tile_tissue",
]
