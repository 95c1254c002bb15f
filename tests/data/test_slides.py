from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData

from rankbygene.data import SpatialSetup, resolve_slides
from rankbygene.errors import InputTypeError, InputValueError


def test_names_of_several_slides(build: SimpleNamespace) -> None:
    a, b = build.slide(), build.slide()
    assert list(resolve_slides(a)) == ["spots"]
    assert list(resolve_slides([a, b])) == ["spots-0", "spots-1"]
    assert list(resolve_slides({"A": a, "B": b}, lambda _: SpatialSetup())) == ["A", "B"]
    assert resolve_slides({"A": a})["A"].slide == "A"


def test_no_slides_and_problems_of_several(build: SimpleNamespace) -> None:
    with pytest.raises(InputValueError, match="no SpatialData"):
        resolve_slides([])
    good, bad, worse = build.slide(), build.slide(), build.slide()
    bad.tables["table"].X = -bad.tables["table"].X
    del worse.tables["table"]
    with pytest.raises(InputValueError) as caught:
        resolve_slides({"good": good, "bad": bad, "worse": worse})
    assert "2 problems" in str(caught.value)
    assert "slide 'bad'" in str(caught.value)
    assert "slide 'worse'" in str(caught.value)
    with pytest.raises(InputValueError, match="(?s)object 1: .*object 2: "):
        resolve_slides([good, bad, worse])
    with pytest.raises(InputTypeError, match="object 1: needs a SpatialData"):
        resolve_slides([good, "slide.zarr"])
    with pytest.raises(InputTypeError, match="what setups gives .* SpatialSetup is needed"):
        resolve_slides([good], lambda _: None)  # type: ignore[arg-type,return-value]
    for given in (AnnData(np.ones((2, 2))), "slide.zarr", None):
        with pytest.raises(InputTypeError, match="spatialdata.read_zarr"):
            resolve_slides(given)


def test_names_that_would_collide(build: SimpleNamespace) -> None:
    first, second = build.slide(), build.slide()
    with pytest.raises(InputValueError, match="'spots-1'.*pass a dict"):
        resolve_slides([first, second, build.slide(name="spots-1")])
