"""A stranger's model file, or spectrum: it can neither do harm, nor fill the memory, nor lie."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, is_one_line_error, rows

h5py = pytest.importorskip("h5py")
if sys.platform == "win32":
    pytest.skip("measures memory", allow_module_level=True)

MODEL = "trained_model.keras"
MOST_MEMORY = 1.5e9
KERAS_WEIGHTS = "model.weights.h5"
NOTES, BIAS = "runml/notes.npy", "runml/weights_7.npy"  # the last bias


def npy(array, **header):
    """The bytes of an `.npy` member, perhaps under a header that lies."""
    file = io.BytesIO()
    if header:
        honest = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, honest | header)
        return file.getvalue() + array.tobytes()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def as_notes(text):
    return npy(np.frombuffer(text, np.uint8))


def notes(members, **changes):
    """The notes of a model with other values, named by their path: `training__layers`."""
    content = json.loads(np.load(io.BytesIO(members[NOTES])).tobytes())
    for name, value in changes.items():
        *way, last = name.split("__")
        part = content
        for step in way:
            part = part[step]
        part[last] = value
    return {NOTES: as_notes(json.dumps(content).encode())}


# What Keras writes, and this script never opens.


def last_bias(item):
    return getattr(item, "shape", None) == (2,)


def in_hdf5(change):
    """A change of the HDF5 file with Keras's weights, given its last bias and a folder."""

    def changed(members, folder):
        path = folder / "weights.h5"
        path.write_bytes(members[KERAS_WEIGHTS])
        with h5py.File(path, "r+") as h5:
            name = h5.visititems(lambda name, item: name if last_bias(item) else None)
            change(h5, name, folder)
        return {KERAS_WEIGHTS: path.read_bytes()}

    return changed


def other_bias(**dataset):
    """Another dataset in the place of the last bias."""

    def change(h5, name, _folder):
        del h5[name]
        h5.create_dataset(name, **dataset)

    return in_hdf5(change)


def zeros_in_a_chunk(h5, name, _folder):
    n_bytes = 2**28
    del h5[name]
    chunk = {"shape": (n_bytes,), "chunks": (n_bytes,), "dtype": "u1", "compression": "gzip"}
    h5.create_dataset(name, **chunk).id.write_direct_chunk((0,), zlib.compress(bytes(n_bytes), 1))


def references(members, folder):
    """An attribute whose entries all point at one string of 4 MB."""
    n, long = 3_900, "x" * 4_000_000

    def change(h5, name, _folder):
        values = np.array([long] + ["y"] * (n - 1), dtype=object)
        h5[name].attrs.create("names", values, dtype=h5py.string_dtype())

    data = in_hdf5(change)(members, folder)[KERAS_WEIGHTS]
    at = data.index(struct.pack("<I", len(long)))
    return {KERAS_WEIGHTS: data[:at] + data[at : at + 16] * n + data[at + 16 * n :]}


def link(kind):
    """What leads to somebody else's file in place of the last bias, or to a pipe."""

    def change(h5, name, folder):
        path, bias = folder / "secret", np.array([50, -50], "f4")
        name = "layers" if kind == "pipe" else name
        del h5[name]
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "external dataset":
            path.write_bytes(bias.tobytes())
            h5.create_dataset(name, (2,), "f4", external=[(str(path), 0, 8)])
        else:
            with h5py.File(path, "w") as other:
                other["bias"] = bias
        if kind == "virtual dataset":
            layout = h5py.VirtualLayout((2,), "f4")
            layout[:] = h5py.VirtualSource(path, "bias", (2,))
            h5.create_virtual_dataset(name, layout)
        elif kind != "external dataset":
            h5[name] = h5py.ExternalLink(path, "/bias")

    return in_hdf5(change)


UNREAD = {
    "a fill value": other_bias(shape=(2**30,), dtype="f4", fillvalue=1),
    "a compressed chunk": in_hdf5(zeros_in_a_chunk),
    "text": other_bias(data=["50", "-50"]),
    "unsigned integers": other_bias(data=np.array([50, 0], "u1")),
    "references": references,
    "an external link": link("external link"),
    "an external dataset": link("external dataset"),
    "a virtual dataset": link("virtual dataset"),
    "a link to a pipe": link("pipe"),
    "no HDF5": lambda *_: {KERAS_WEIGHTS: b"\x89HDF\r\n\x1a\n"},
    "a large config": lambda *_: {"config.json": bytes(3 * 10**8)},
    "a foreign config": lambda *_: {"config.json": b'{"module": "os", "class_name": "mkdir"}'},
}


# What the script itself reads.


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def table(**arrays):
    """Other arrays in the reference table."""
    return lambda *_: {f"runml/{name}.npy": npy(array) for name, array in arrays.items()}


def cut_table(members, _folder):
    """A reference table without gene flow, otherwise in order."""
    names = ("inputs", "summaries", "parameters", "labels", "is_validation", "probabilities")
    arrays = {name: np.load(io.BytesIO(members[f"runml/{name}.npy"])) for name in names}
    rows = arrays["labels"] == 0
    return {f"runml/{name}.npy": npy(array[rows]) for name, array in arrays.items()}


def noted(**changes):
    return lambda members, _folder: notes(members, **changes)


def bias(array, **header):
    return lambda *_: {BIAS: npy(array, **header)}


TWO, ESCAPE = np.array([0.5, -0.5], "f4"), "\x1b[2J\x1b]0;owned\x07\u202e"
REFUSED = {
    "another shape": bias(np.zeros(3, "f4")),
    "a column": bias(np.zeros((2, 1), "f4")),
    "another type": bias(TWO.astype("f8")),
    "big-endian": bias(TWO.astype(">f4")),
    "text": bias(np.array(["1", "2"])),
    "objects": bias(np.array([Bomb(), 1.0], object)),
    "a huge shape": bias(TWO, shape=(2**40,)),
    "a negative shape": bias(TWO, shape=(-1,)),
    "Fortran's order": lambda *_: {"runml/weights_0.npy": npy(np.ones((3, 3, 1, 16), "f4", "F"))},
    "NaN": bias(np.array([np.nan, 0], "f4")),
    "infinite": bias(np.array([np.inf, 0], "f4")),
    "too short": lambda members, _: {BIAS: members[BIAS][:-4]},
    "a long header": lambda *_: {BIAS: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535},
    "no header": lambda *_: {BIAS: bytes(8)},
    "no bias": lambda *_: {BIAS: None},
    "a huge table": lambda *_: {"runml/labels.npy": npy(np.zeros(4, "i4"), shape=(10**12,))},
    "labels of other values": table(labels=np.full(400, 7, "i4")),
    "negative labels": table(labels=np.full(400, -1, "i4")),
    "an empty table": table(labels=np.zeros(0, "i4")),
    "one model": cut_table,
    "notes nested too deep": lambda *_: {NOTES: as_notes(b'{"training": ' + b"[" * 10**6)},
    "notes that are a list": lambda *_: {NOTES: as_notes(b"[]")},
    "large packed notes": lambda *_: {NOTES: as_notes(b" " * 3 * 10**8)},
    "large notes": lambda *_: {NOTES: as_notes(b"[" + b"{}," * 31_000_000 + b"{}]")},
    "no layers": noted(training__layers=0),
    "many layers": noted(training__layers=10**9),
    "large samples": noted(sample_size=[10**6, 10**6]),
    "other samples": noted(sample_size=[20, 20]),
    "a dropout that is none": noted(training__dropout=ESCAPE),
    "a training that is none": noted(training=None),
    "simulations that are none": noted(simulations__ne_prior=[ESCAPE, 2]),
}
EITHER = {  # as it is not looked at, or refused
    "trailing garbage": lambda members, _: {BIAS: members[BIAS] + bytes(100)},
    "names with escapes": noted(simulations__versions={ESCAPE: ESCAPE}, checksums={ESCAPE: ESCAPE}),
    "a foreign member": lambda *_: {"../../escaped.py": b"", "runml/code.py": b"raise"},
}


def write(path, members, packed=()):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                kind = zipfile.ZIP_DEFLATED if name in packed or len(data) > 2e8 else 0
                archive.writestr(name, data, kind, 1)


def lying(size):
    """The zip's directory says of the last bias that it has another size."""

    def build(path, members):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
            archive.getinfo(BIAS).file_size = archive.getinfo(BIAS).compress_size = size

    return build


def long_directory(path, members):
    """A directory of 95 MB, the last entry again and again."""
    write(path, members)
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    _, start = struct.unpack("<II", data[end + 12 : end + 20])
    last = data[data.rindex(b"PK\1\2") : end]
    directory = data[start:end] + last * (95_000_000 // len(last))
    sizes = struct.pack("<II", len(directory), start)
    path.write_bytes(data[:start] + directory + data[end : end + 12] + sizes + b"\0\0")


BUILT = {  # whole archives, and whether they must be refused
    "a packed bias": (lambda path, members: write(path, members, [BIAS]), True),
    "a smaller size": (lying(40), True),
    "a larger size": (lying(2**31), False),
    "a long directory": (long_directory, False),
}
KINDS = {name: "genuine" for name in ("genuine", *UNREAD)}
KINDS |= {name: "refused" for name in REFUSED} | {name: "either" for name in EITHER}
KINDS |= {name: "refused" if refused else "either" for name, (_, refused) in BUILT.items()}

SPECTRA = {
    "long.fs": b"501 501 unfolded\n" + b"11\n" * 20_000_000,
    "long_line.fs": b"501 " * 300_000 + b"\n1 2 3\n",
    "quotes.fs": b'21 21 "' + b'a" "' * 300_000 + b"\n1 2 3\n",
    "bomb.fs": gzip.compress(b"21 21\n" + bytes(3 * 10**8), 1),
    "header.npy": npy(np.zeros(2), shape=(2**40, 2**10)),
    "escapes.fs": f"21 {ESCAPE} 21\n1 2 3\n".encode(),
}
DRIVER = """
import contextlib, io, json, pathlib, re
import Machine_Learning_for_Population_Genetics_V2 as runml
runml.save_picture = lambda *_, **__: None
status_file = pathlib.Path("/proc/self/status")  # getrusage would begin with the parent's peak
for line in iter(input, ""):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            status = runml.main(["--predict", *json.loads(line)])
    text = status_file.read_text() if status_file.exists() else "VmHWM: 0"
    memory = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", text)[1])
    print(json.dumps([status, out.getvalue(), err.getvalue(), memory]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, trained):
    """What `--predict` does with each file, all in one process: status, output, errors, memory."""
    top = tmp_path_factory.mktemp("evil")
    np.save(top / "own.npy", np.load(trained[0] / "test_sfs.npy")[0, ..., 0])
    with zipfile.ZipFile(trained[0] / MODEL) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    calls = {}
    for name in KINDS:
        (top / name).mkdir()
        if name in BUILT:
            BUILT[name][0](top / name / MODEL, members)
        else:
            change = (UNREAD | REFUSED | EITHER).get(name, lambda *_: {})
            write(top / name / MODEL, members | change(members, top / name))
        calls[name] = [str(top / "own.npy"), "--data_dir", str(top / name)]
    for name, data in SPECTRA.items():
        (top / name).write_bytes(data)
        calls[name] = [str(top / name), "--data_dir", str(top / "genuine")]
    named = top / "names.fs"
    counts = " ".join(map(str, np.load(top / "own.npy").ravel()))
    named.write_text(f'# {ESCAPE}\n21 21 unfolded "{ESCAPE}A" "B{ESCAPE}"\n{counts}\n')
    calls["names.fs"] = [str(named), "--data_dir", str(top / "genuine")]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="".join(json.dumps(words) + "\n" for words in calls.values()) + "\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=top,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(calls), done.stderr
    assert not (top / "ran").exists()
    memory = [0, *(answer[3] for answer in told)]
    rises = [memory[at + 1] > max(MOST_MEMORY, memory[at]) for at in range(len(told))]
    return top, dict(zip(calls, zip(told, rises, strict=True), strict=True))


def check_screen(out, err):
    """No letter that a terminal could act on."""
    assert all(letter.isprintable() for letter in (out + err).replace("\n", ""))


@pytest.mark.parametrize("name", KINDS)
def test_a_model_file_gives_the_genuine_answer_or_is_refused(answers, name):
    top, answers = answers
    (status, out, err, _), too_much = answers[name]
    assert status in {"genuine": [0], "refused": [1], "either": [0, 1]}[KINDS[name]], out + err
    check_screen(out, err)
    if status:
        assert is_one_line_error(err), err
        assert MODEL in err
        assert not (top / name / "predictions.csv").exists()
    else:
        genuine = [rows(top / folder / "predictions.csv")[0] for folder in ("genuine", name)]
        for row in genuine if KINDS[name] == "either" else ():
            del row["simulations"]  # which tells the names
        assert genuine[0] == genuine[1]
        assert float(genuine[0]["gene_flow"]) not in (0, 1)
    assert not too_much


@pytest.mark.parametrize("name", [*SPECTRA, "names.fs"])
def test_a_spectrum_is_read_within_bounds(answers, name):
    (status, out, err, _), too_much = answers[1][name]
    assert status == (name != "names.fs")
    check_screen(out, err)
    if status:
        assert is_one_line_error(err), err[:500]
        assert name in err
        assert len(err) < 1_000
    assert not too_much


def test_nothing_was_written_beside(answers):
    top, _ = answers
    written = {path.name for path in top.rglob("*") if path.is_file()}
    ours = {MODEL, "predictions.csv", ".lock", "own.npy", "names.fs", *SPECTRA}
    assert written - ours == {"weights.h5", "secret"}
    assert not Path(top.parent / "escaped.py").exists()
