"""The numbers behind the pictures and the tables, and that there are pictures."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from conftest import command, contents, runml
from matplotlib import image
from test_commands import run

PICTURES = {
    "--simulate": ("demographic_models.png", "simulated_sfs.png"),
    "--train": ("training_history.png",),
    "--test": ("test_report.png",),
}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Numbers.


def test_f_st_and_shared_share_by_hand():
    sfs = np.zeros((2, 3, 3, 1))  # one diploid of each species
    sfs[0, 1, 1] = 2  # polymorphic in both: pi = 1 in each, d_XY = 1/2
    sfs[0, 2, 0] = 1  # a fixed difference: d_XY = 1
    sfs[0, 0, 1] = 1  # in B only: pi_B = 1, d_XY = 1/2
    sfs[1, 2, 0] = 5
    found = runml.summaries(sfs)
    assert found["SNPs"].tolist() == [4, 5]
    assert found["polymorphic in both"].tolist() == [0.5, 0]
    # pi_A = 2, pi_B = 3, d_XY = 2 / 2 + 1 + 1 / 2
    assert found["F_ST"] == pytest.approx([1 - 2.5 / 2.5, 1])


def test_wilson_by_hand():
    assert runml.wilson(8, 10) == pytest.approx([0.490162, 0.943318], abs=1e-6)
    assert runml.wilson(10, 10) == pytest.approx([10 / (10 + 1.959964**2), 1], abs=1e-6)
    assert runml.wilson(0, 10)[0] == 0


def test_accuracy_in_bins_by_hand():
    values = np.arange(40.0)[::-1]
    right = values >= 10
    right[values == 35] = False
    middles, n_right, n = runml.accuracy_in_bins(values, right, n_bins=4)
    np.testing.assert_allclose(middles, [4.5, 14.5, 24.5, 34.5])
    assert n_right.tolist() == [0, 10, 10, 9]
    assert n.tolist() == [10, 10, 10, 10]


@pytest.mark.parametrize(
    "values", [[3.0], [3.0] * 50, [1.0, 2.0], [1.0] * 49 + [2.0], [1.0] * 20 + [2.0] * 30]
)
def test_no_bin_is_empty(values):
    middles, n_right, n = runml.accuracy_in_bins(np.array(values), np.ones(len(values), bool))
    assert (n > 0).all()
    assert n.sum() == n_right.sum() == len(values)
    assert (np.diff(middles) > 0).all()


def test_calibration_bins_are_those_of_scikit_learn():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(1)
    gene_flow = rng.random(1_000)
    gene_flow[:3] = 0, 0.05, 1
    responses = rng.random(1_000) < gene_flow
    bins, counts = runml.calibration_bins(gene_flow)
    assert counts.sum() == 1_000
    assert bins[:3].tolist() == [0, 0, 9]
    share, mean = calibration_curve(responses, gene_flow, n_bins=10)
    for tenth in range(10):
        assert responses[bins == tenth].mean() == pytest.approx(share[tenth])
        assert gene_flow[bins == tenth].mean() == pytest.approx(mean[tenth])
    assert abs(share - mean).max() < 0.15  # which is calibrated, by construction
    assert runml.calibration_bins(np.array([0.31, 0.39, 0.99]))[1].tolist() == [0, 0, 0, 2] + [0] * 5 + [
        1
    ]


def test_attributions_sum_to_the_difference_in_log_odds(trained):
    folder, _ = trained
    model = runml.load_model(folder / "trained_model.keras")
    baseline = np.array(
        runml.load_notes(folder / "trained_model.keras").learned["mean_input"], np.float32
    )
    sfs = np.load(folder / "test_sfs.npy")[:20]

    def log_odds(counts):
        probabilities = model.predict(counts, verbose=0).astype(float)
        return np.log(probabilities[:, 1]) - np.log(probabilities[:, 0])

    found = runml.attributions(model, sfs, baseline)
    assert found.shape == (20, 21, 21)
    difference = log_odds(sfs) - log_odds(baseline[np.newaxis] ** 2)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), difference, rtol=0.02, atol=0.02)
    assert (found[:, 0, 0] == 0).all()  # the corners are no SNPs


def test_the_baseline_is_the_mean_of_the_training_part(trained):
    folder, _ = trained
    notes = runml.load_notes(folder / "trained_model.keras")
    sfs = np.load(folder / "simulated_sfs.npy")
    training, _ = runml.split_rows(len(sfs), notes.training.seed)
    roots = np.sqrt(sfs[training])
    np.testing.assert_allclose(notes.learned["mean_input"], roots.mean(axis=0), rtol=1e-4, atol=1e-6)


# Tables.


def test_each_run_adds_a_row_and_they_are_ranked(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    words = ("--train", "--epochs", 2, "--learning_rate", 1e-4, "--layers", 1)
    status, printed, _ = run(capsys, *words, "--data_dir", tmp_path)
    assert status == 0
    first, second = rows(tmp_path / "experiments.csv")
    assert (first["layers"], second["layers"]) == ("2", "1")
    assert (first["epochs"], second["epochs"]) == ("4", "2")
    assert first["data"] == second["data"]
    assert len(second["validation_loss_by_epoch"].split()) == 2
    model = runml.load_model(tmp_path / "trained_model.keras")
    assert int(second["weights"]) == model.count_params()
    history = rows(tmp_path / "training_history.csv")
    assert len(history) == 2
    assert float(history[-1]["val_loss"]) == pytest.approx(float(second["validation_loss"]), rel=1e-3)
    table = printed.partition("Runs on these data so far")[2].splitlines()
    assert table[1].split() == [
        *("layers", "epochs", "weights", "validation_accuracy", "validation_loss", "seconds")
    ]
    losses = [float(line.split()[5]) for line in table[2:4]]
    assert losses == sorted(losses)
    (marked,) = (line for line in table if line.endswith("<- this run"))
    assert marked.split()[1] == "1"
    run(capsys, "--simulate", "--n_reps", 20, "--sequence_length", 5_000, "--data_dir", tmp_path)
    _, printed, _ = run(capsys, "--train", "--epochs", 1, "--data_dir", tmp_path)
    assert len(rows(tmp_path / "experiments.csv")) == 3
    assert printed.count("<- this run") == 1
    assert "   2. " not in printed  # the others had other data


def test_choosing_by_the_test_is_remarked(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    assert "optimistic" not in trained[1].stdout
    words = ("--data_dir", tmp_path)
    assert (
        "optimistic" not in run(capsys, "--test", "--n_test_reps", 20, *words)[1]
    )  # same model and set
    run(capsys, "--train", "--epochs", 1, *words)
    status, printed, _ = run(capsys, "--test", "--n_test_reps", 20, *words)
    assert status == 0
    assert "2 different models have now met this test set" in printed
    assert "optimistic" not in run(capsys, "--test", "--n_test_reps", 20, "--seed", 9, *words)[1]
    log = rows(tmp_path / "test_log.csv")
    assert [row["n_test"] for row in log] == ["100", "40", "40", "40"]
    assert len({row["model"] for row in log}) == 2
    assert [row["test_set"] == log[0]["test_set"] for row in log] == [True, True, True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\xff\xfe\x00" * 50 + b"\n" + bytes(range(256))),
        lambda path: path.write_text(path.read_text()[:-40]),
        lambda path: path.write_text(path.read_text() + 'a,"b\n1,2,nan'),
        lambda path: path.write_text(path.read_text().replace(",", ";")),
        lambda path: path.write_text("layers\n" * 5),
        lambda path: path.write_text("x" * 11_000_000),
    ],
)
def test_a_damaged_table_stops_nothing(tmp_path, capsys, trained, damage):
    path = tmp_path / "experiments.csv"
    shutil.copy(trained[0] / "experiments.csv", path)
    whole = runml.read_rows(path, runml.RUN_NUMBERS)
    assert len(whole) == 1
    assert capsys.readouterr().out == ""
    damage(path)
    found = runml.read_rows(path, runml.RUN_NUMBERS)
    assert found in ([], whole)
    assert capsys.readouterr().out == (
        f"{path}: what cannot be read of it is left out; the whole is kept as {path.stem}.old.\n"
    )
    runml.write_rows(path, [*found, whole[0]])
    assert runml.read_rows(path, runml.RUN_NUMBERS) == [*found, whole[0]]
    assert capsys.readouterr().out == ""


def test_a_command_goes_on_with_damaged_tables(tmp_path, trained, capsys):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    for name in ("experiments.csv", "test_log.csv"):
        (tmp_path / name).write_bytes(b"\x00\xff,\n\n,,,\n")
    words = ("--train", "--test", "--epochs", 1, "--n_test_reps", 5, "--data_dir", tmp_path)
    status, printed, error = run(capsys, *words)
    assert (status, error) == (0, "")
    assert printed.count("what cannot be read of it is left out") == 2
    assert len(rows(tmp_path / "experiments.csv")) == len(rows(tmp_path / "test_log.csv")) == 1


# The screen.


def test_summaries_and_baselines_are_printed(trained):
    folder, done = trained
    sfs = np.load(folder / "simulated_sfs.npy")
    found = runml.summaries(sfs)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("F_ST "))
    for response in range(2):
        own = found["F_ST"][response::2]
        assert f"{np.median(own):.3f} ({own.min():.3f} to {own.max():.3f})" in line
    results = json.loads((folder / "test_results.json").read_text())
    notes = runml.load_notes(folder / "trained_model.keras")
    verdicts = runml.baseline_verdicts(notes.learned["baselines"], np.load(folder / "test_sfs.npy"))
    for name, verdict in verdicts.items():
        assert results["baselines"][name] == np.mean(verdict == np.arange(100) % 2)
        assert f"{results['baselines'][name]:.4f} (95% interval" in done.stdout
        assert name in done.stdout


# Pictures.


@pytest.mark.parametrize("name", [name for names in PICTURES.values() for name in names])
def test_pictures_are_there_and_not_blank(trained, name):
    picture = image.imread(trained[0] / name)[..., :3]
    assert min(picture.shape[:2]) >= 400
    shades = np.unique((picture * 15).astype(int).reshape(-1, 3), axis=0)
    assert len(shades) > 10
    assert 0.02 < (picture.min(axis=2) < 0.9).mean() < 0.9


@pytest.mark.parametrize(
    "changes", [{"gene_flow_fraction": 1.0}, {"tdiv_prior": runml.Prior(1e3, 1e3)}, {"n_loci": 5}]
)
def test_models_are_drawn_under_other_settings(tmp_path, capsys, changes):
    settings = runml.replace(runml.SimulationSettings(), **changes)
    runml.save_picture(tmp_path / "models.png", runml.draw_models, settings)
    assert capsys.readouterr().err == ""
    assert image.imread(tmp_path / "models.png").std() > 0


def test_smallest_data_are_drawn(tmp_path):
    """Almost no SNPs, the fewest replicates, a machine where nothing but the folder can be written."""
    words = ("--n_reps", 5, "--sample_size", 1, 2, "--sequence_length", 300, "--tdiv_prior", 1e5, 1e5)
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    done = command(
        *("--simulate", "--train", "--test", "--n_test_reps", 1, "--epochs", 1, *words),
        *("--data_dir", tmp_path / "data"),
        env=os.environ | {"MPLCONFIGDIR": str(nowhere), "HOME": str(nowhere)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "atplotlib" not in done.stdout
    for names in PICTURES.values():
        for name in names:
            assert image.imread(tmp_path / "data" / name).std() > 0


@pytest.mark.parametrize("mode", PICTURES)
def test_a_picture_that_fails_costs_a_line_and_nothing_else(
    tmp_path, trained, capsys, monkeypatch, mode
):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    for name in PICTURES[mode]:
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()  # so it cannot be replaced
    words = {"--simulate": ("--n_reps", 5, "--sequence_length", 500), "--train": ("--epochs", 1)}
    words = words.get(mode, ("--n_test_reps", 5))
    status, printed, error = run(capsys, mode, *words, "--data_dir", tmp_path)
    assert status == 0
    assert error.count("\n") == len(PICTURES[mode])
    for name in PICTURES[mode]:
        assert f"{tmp_path / name} could not be drawn (" in error
    assert "See " not in printed
    assert contents(tmp_path) != contents(trained[0])


def test_an_old_picture_never_stands_beside_new_numbers(tmp_path, capsys):
    def fail(figure):
        raise MemoryError("no\nmemory")

    (tmp_path / "a.png").write_text("old")
    runml.save_picture(tmp_path / "a.png", fail)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        f"{tmp_path / 'a.png'} could not be drawn (no). The numbers are saved.\n"
    )
