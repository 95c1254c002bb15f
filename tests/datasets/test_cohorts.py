from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rankbygene as rbg

PREFIXED = {
    "id": "cases.submitter_id",
    "status": "demographic.vital_status",
    "death": "demographic.days_to_death",
    "last": "diagnoses.days_to_last_follow_up",
}
PLAIN = {
    "id": "case_submitter_id",
    "status": "vital_status",
    "death": "days_to_death",
    "last": "days_to_last_follow_up",
}
# One row per treatment, as the portal writes them; a quotation mark that is never closed.
ROWS = [
    ("TCGA-A1-A0SB", "Alive", "'--", "259", 'say "no'),
    ("TCGA-A1-A0SB", "Alive", "'--", "1200", 'say "no'),
    ("TCGA-A1-A0SB", "Alive", "'--", "'--", 'say "no'),
    ("TCGA-A2-A04P", "Dead", "548", "500", "b"),
    ("TCGA-A2-A04P", "Dead", "548", "'--", "b"),
    ("TCGA-A7-A0CE", "Alive", "'--", "0", "c"),
    ("TCGA-AR-A1AR", "Dead", "'--", "300", "d"),
    ("TCGA-AR-A1AS", "Alive", "'--", "'--", "e"),
    ("TCGA-AR-A1AT", "Alive", "'--", "-7", "f"),
    ("TCGA-AR-A1AU", "Alive", "20", "40", "g"),
    ("TCGA-AR-A1AV", "Dead", "20", "40", "h"),
    ("TCGA-AR-A1AV", "Dead", "21", "40", "h"),
    ("TCGA-AR-A1AW", "Not Reported", "'--", "40", "i"),
    ("TCGA-AR-A1AX", "Dead", "20", "'--", "j"),
    ("TCGA-AR-A1AX", "Alive", "'--", "40", "j"),
]
PROBLEMS = {
    "TCGA-AR-A1AR": "died, days_to_death is missing",
    "TCGA-AR-A1AS": "no day of a last contact",
    "TCGA-AR-A1AT": "the time is negative",
    "TCGA-AR-A1AU": "alive, but days_to_death is given",
    "TCGA-AR-A1AV": "several values of days_to_death",
    "TCGA-AR-A1AW": "vital_status is not known",
    "TCGA-AR-A1AX": "several values of vital_status",
}


def write_clinical(path: Path, names: dict[str, str], rows: Any = ROWS) -> Path:
    lines = ["\t".join([*names.values(), "note"]), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("names", [PREFIXED, PLAIN])
def test_times_and_events_of_cases(tmp_path: Path, names: dict[str, str], caplog: Any) -> None:
    path = write_clinical(tmp_path / "clinical.tsv", names)
    patients = rbg.datasets.tcga_clinical(path, columns=["note"])
    good = patients[patients["problem"] == ""]
    assert good["time"].to_dict() == {"TCGA-A1-A0SB": 1200, "TCGA-A2-A04P": 548, "TCGA-A7-A0CE": 0}
    assert good["event"].astype(bool).to_list() == [False, True, False]
    assert good["note"].to_list() == ['say "no', "b", "c"]
    bad = patients[patients["problem"] != ""]
    assert bad["problem"].to_dict() == PROBLEMS
    assert bad[["time", "event"]].isna().all(axis=None)
    assert "7 of 10 patients have no usable time" in caplog.text


def test_later_contacts_count(tmp_path: Path) -> None:
    write_clinical(tmp_path / "clinical.tsv", PREFIXED)
    rows = "cases.submitter_id\tfollow_ups.days_to_follow_up\n{}\n"
    visits = ["TCGA-A1-A0SB\t1100", "TCGA-A7-A0CE\t90", "TCGA-A7-A0CE\t30", "TCGA-AR-A1AS\t5"]
    visits += ["TCGA-A2-A04P\t700", "TCGA-A1-A0SB\t'--", "TCGA-ZZ-ZZZZ\t9"]
    (tmp_path / "follow_up.tsv").write_text(rows.format("\n".join(visits)))
    time = rbg.datasets.tcga_clinical(tmp_path)["time"].dropna().to_dict()
    expected = {"TCGA-A1-A0SB": 1200, "TCGA-A2-A04P": 548, "TCGA-A7-A0CE": 90, "TCGA-AR-A1AS": 5}
    assert time == expected


def test_a_table_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clinical\.tsv cannot be read"):
        rbg.datasets.tcga_clinical(tmp_path)
    path = write_clinical(tmp_path / "clinical.tsv", PREFIXED | {"death": "days"})
    with pytest.raises(KeyError, match="demographic.days_to_death"):
        rbg.datasets.tcga_clinical(path)
    write_clinical(path, PREFIXED, [("TCGA-A1-A0SB", "Dead", "soon", "1", "")])
    with pytest.raises(ValueError, match=r"must hold days; 1 values are none \(first: 'soon'\)"):
        rbg.datasets.tcga_clinical(path)
    write_clinical(path, PREFIXED, [("TCGA-A1-A0SB", "Alive", "'--", "1", t) for t in "ab"])
    with pytest.raises(ValueError, match="'note' has several values.*TCGA-A1-A0SB"):
        rbg.datasets.tcga_clinical(path, columns=["note"])


def test_slides_belong_to_cases() -> None:
    slide = "TCGA-A1-A0SB-01Z-00-DX1.B34C267B-CAAA-4AB6-AD5C-276C26F997A1.svs"
    for name in (slide, Path("slides") / slide, "TCGA-A1-A0SB.h5", "tcga-a1-a0sb-01Z-00-DX1"):
        assert rbg.datasets.tcga_case(name) == "TCGA-A1-A0SB"
    for name in ("slide1.svs", "TCGA-A1-A0SBX.svs", "TCGA-BRCA.svs"):
        with pytest.raises(ValueError, match="barcode"):
            rbg.datasets.tcga_case(name)


BCNB = pd.DataFrame(
    {
        "Patient ID": [1, 2, 3, 10],
        "Age(years)": [45, 61, 38, 50],
        "Tumour Size(cm)": [2.1, 1.0, 3.3, 2.0],
        "ER": ["Positive", "Negative", "Positive ", None],
        "PR": ["Positive", "Negative", "Positive", "Positive"],
        "HER2": ["Negative", "Positive", "Negative", "Negative"],
        "HER2 Expression": ["1+", "3+", "2+", "0"],
        "ALN status": ["N0", "N+(1-2)", "N+(\uff1e2)", "N0"],
    }
)


def test_bcnb_labels_and_split(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    BCNB.to_excel(tmp_path / "patient-clinical-data.xlsx", index=False)
    (tmp_path / "dataset-splitting").mkdir()
    for part, ids in (("train", "1\n10\n"), ("val", "3"), ("test", "2\n")):
        (tmp_path / "dataset-splitting" / f"{part}_id.txt").write_text(ids)
    labels = rbg.datasets.bcnb_labels(tmp_path)
    assert list(labels.index) == ["1", "2", "3", "10"]
    assert labels["aln_status"].cat.codes.to_list() == [0, 1, 2, 0]
    assert labels["aln_status"].cat.ordered
    assert labels["er"].cat.codes.to_list() == [1, 0, 1, -1]
    assert labels["her2_expression"].to_list() == ["1+", "3+", "2+", "0"]
    assert labels["age"].to_list() == [45, 61, 38, 50]
    assert labels["split"].to_list() == ["train", "test", "validation", "train"]
    (tmp_path / "dataset-splitting" / "test_id.txt").write_text("2\n3\n")
    with pytest.raises(ValueError, match=r"several parts \(first: 3\)"):
        rbg.datasets.bcnb_labels(tmp_path)


def test_bcnb_ids_are_whole_numbers_where_a_row_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    BCNB.astype({"Patient ID": float}).to_csv(path, index=False)
    assert list(rbg.datasets.bcnb_labels(path).index) == ["1", "2", "3", "10"]
    BCNB.assign(**{"Patient ID": [1, 2, None, 10]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="1 of 4 patients in .* are missing"):
        rbg.datasets.bcnb_labels(path)


def test_a_bcnb_table_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    BCNB.to_csv(path, index=False)
    assert "split" not in rbg.datasets.bcnb_labels(path)
    BCNB.drop(columns="ALN status").to_csv(path, index=False)
    with pytest.raises(KeyError, match="aln_status"):
        rbg.datasets.bcnb_labels(path)
    BCNB.assign(PR="maybe").to_csv(path, index=False)
    with pytest.raises(ValueError, match="'pr' must be one of.*patient 1 has 'maybe'"):
        rbg.datasets.bcnb_labels(path)
    BCNB.iloc[[0, 1, 0]].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"repeated \(first: 1\)"):
        rbg.datasets.bcnb_labels(path)
    broken = tmp_path / "broken.xlsx"
    for content in (b"no workbook", b"PK\x03\x04 cut off"):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.xlsx cannot be read"):
            rbg.datasets.bcnb_labels(broken)
