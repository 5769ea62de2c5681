"""A stranger's model file: it can neither do harm, nor fill the memory, nor lie."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ESCAPE, ROOT, Bomb, assert_refused, rows

if sys.platform == "win32":
    pytest.skip("measures memory", allow_module_level=True)

MODEL = "trained_model.keras"
KERAS_WEIGHTS, KERAS_CONFIG = "model.weights.h5", "config.json"
NOTES, TABLE = "runml/notes.npy", "runml/reference_table.npy"
BIAS = "runml/weights_7.npy"  # the last one
LARGE = 3 * 10**8


def npy(array, **header):
    """The bytes of an `.npy` member, perhaps under a header that lies."""
    file = io.BytesIO()
    if header:
        honest = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, honest | header)
        return file.getvalue() + array.tobytes()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def bias(array, **header):
    return lambda _: {BIAS: npy(array, **header)}


def table(change, **header):
    """Another reference table."""
    return lambda members: {TABLE: npy(change(np.load(io.BytesIO(members[TABLE]))), **header)}


def relabelled(rows):
    rows["labels"][0] = 7
    return rows


def notes(text):
    return lambda _: {NOTES: npy(np.frombuffer(text, np.uint8))}


def noted(name, value):
    """The notes of a model with another value, named by its path: `training__layers`."""

    def change(members):
        content = part = json.loads(np.load(io.BytesIO(members[NOTES])).tobytes())
        *way, last = name.split("__")
        for step in way:
            part = part[step]
        part[last] = value
        return notes(json.dumps(content).encode())(members)

    return change


TWO = np.array([0.5, -0.5], "f4")
CHANGES = {  # by what becomes of it: members of the archive that are others, or None
    "genuine": {
        "nothing": lambda _: {},
        # Keras's own members, in which code and links to other files could be, are never opened.
        "no weights of Keras": lambda _: {KERAS_WEIGHTS: None},
        "broken weights of Keras": lambda _: {KERAS_WEIGHTS: b"\x89HDF\r\n\x1a\n"},
        "a foreign config": lambda _: {KERAS_CONFIG: b'{"module": "os", "class_name": "mkdir"}'},
        "a large config": lambda _: {KERAS_CONFIG: bytes(LARGE)},
        "trailing garbage": lambda members: {BIAS: members[BIAS] + bytes(100)},
        "names with escapes": noted("simulations__versions", {ESCAPE: ESCAPE}),
        "foreign members": lambda _: {"../../escaped.py": b"", "runml/code.py": b"raise"},
    },
    "refused": {
        "another shape": bias(np.zeros((2, 1), "f4")),
        "another type": bias(TWO.astype(">f4")),
        "objects": bias(np.array([Bomb(), 1.0], object)),
        "a huge shape": bias(TWO, shape=(2**40,)),
        "NaN": bias(np.array([np.nan, 0], "f4")),
        "too short": lambda members: {BIAS: members[BIAS][:-4]},
        "a long header": lambda _: {BIAS: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535},
        "no bias": lambda _: {BIAS: None},
        "a huge table": table(lambda rows: rows, shape=(10**12,)),
        "a label of neither": table(relabelled),
        "one model": table(lambda rows: rows[rows["labels"] == 0]),
        "a table of two columns": table(lambda rows: rows[["labels", "is_validation"]]),
        "notes nested too deep": notes(b'{"training": ' + b"[" * 10**5),
        "long notes": notes(b" " * 2 * 10**6),
        "a long file": notes(b" " * 9 * 10**7),
        "packed notes": notes(b" " * LARGE),
        "notes that are a list": notes(b"[]"),
        "a training that is none": noted("training", None),
        "no layers": noted("training__layers", 0),
        "a dropout that is none": noted("training__dropout", ESCAPE),
        "simulations that are none": noted("simulations__ne_prior", [ESCAPE, 2]),
        "large samples": noted("sample_size", [10**6, 10**6]),
        "other samples": noted("sample_size", [20, 20]),
    },
}
CASES = [(outcome, name) for outcome, some in CHANGES.items() for name in some]
DRIVER = """
import contextlib, io, json, pathlib, re, sys
import Machine_Learning_for_Population_Genetics_V2 as runml
runml.save_picture = lambda *_, **__: None
status_file = pathlib.Path("/proc/self/status")  # getrusage would begin with the parent's peak
for folder in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            status = runml.main(["--predict", "own.npy", "--data_dir", folder])
    text = status_file.read_text() if status_file.exists() else "VmHWM: 0"
    memory = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", text)[1])
    print(json.dumps([[status, out.getvalue(), err.getvalue()], memory]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, trained):
    """What `--predict` does with each file, all in one process; and the folder of folders."""
    top = tmp_path_factory.mktemp("evil")
    np.save(top / "own.npy", np.load(trained[0] / "test_sfs.npy")[0, ..., 0])
    with zipfile.ZipFile(trained[0] / MODEL) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for outcome, name in CASES:
        (top / name).mkdir()
        with zipfile.ZipFile(top / name / MODEL, "w") as archive:
            for member, data in (members | CHANGES[outcome][name](members)).items():
                if data is not None:
                    kind = zipfile.ZIP_DEFLATED if len(data) >= LARGE else zipfile.ZIP_STORED
                    archive.writestr(member, data, kind, 1)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *(name for _, name in CASES)],
        capture_output=True,
        text=True,
        check=False,
        cwd=top,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(CASES), done.stderr
    return top, dict(zip((name for _, name in CASES), told, strict=True))


@pytest.mark.parametrize(("outcome", "name"), CASES)
def test_a_model_file_gives_the_genuine_answer_or_is_refused(answers, outcome, name):
    top, answers = answers
    done, memory = answers[name]
    status, out, err = done
    assert status == (outcome == "refused"), out + err
    assert all(letter.isprintable() for letter in (out + err).replace("\n", ""))
    if status:
        assert_refused(done, MODEL)
        assert not (top / name / "predictions.csv").exists()
    else:
        genuine, row = (rows(top / folder / "predictions.csv")[0] for folder in ("nothing", name))
        assert row == genuine
        assert 0 < float(row["gene_flow"]) < 1
    assert memory < 1.5e9


def test_nothing_was_written_beside(answers):
    top, _ = answers
    written = {path.name for path in top.rglob("*") if path.is_file()}
    assert written == {MODEL, "predictions.csv", ".lock", "own.npy"}
    assert not Path(top.parent / "escaped.py").exists()
