"""Readers that spatialdata-io lacks, and safe writers."""

from __future__ import annotations

from rankbygene._atomic import atomic_directory, atomic_file, fill_store, write_sdata
from rankbygene.io._bags import read_bag_h5, write_bag_h5
from rankbygene.io._h5 import H5Bag
from rankbygene.io._hest import read_hest
from rankbygene.io._legacy_st import read_legacy_st
from rankbygene.io._repair import Finding, repair_store
from rankbygene.io._results import write_results
from rankbygene.io._visium import read_visium
from rankbygene.io._wsi import read_wsi

__all__ = [
    "Finding",
    "H5Bag",
    "atomic_directory",
    "atomic_file",
    "fill_store",
    "read_bag_h5",
    "read_hest",
    "read_legacy_st",
    "read_visium",
    "read_wsi",
    "repair_store",
    "write_bag_h5",
    "write_results",
    "write_sdata",
]
