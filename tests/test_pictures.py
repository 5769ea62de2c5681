"""The numbers behind the pictures and the tables, and that there are pictures."""

import functools
import itertools
import json
import os
import re

import numpy as np
import pytest
from conftest import command, contents, rows, run, runml
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PICTURES = ("demographic_models.png", "simulated_sfs.png", "training_history.png", "test_report.png")


@pytest.fixture(scope="module")
def network(trained):
    return runml.load_network(trained[0] / "trained_model.keras")


def texts(figure):
    """All that is written on a figure."""
    figure.draw_without_rendering()
    return "\n".join(found.get_text() for found in figure.findobj(lambda x: hasattr(x, "get_text")))


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


def calibration(gene_flow, responses):
    """The points and their heights, and the counts below, of a calibration panel."""
    figure = Figure()
    axes = figure.add_subplot()
    runml.draw_calibration(axes, gene_flow, responses)
    figure.draw_without_rendering()
    points = [line for line in axes.lines if line.get_marker() == "s"]
    x, y = points[0].get_data() if points else ([], [])
    counts = [text.get_text().replace(",", "") for text in axes.texts]
    return np.array(x), np.array(y), [int(count) for count in counts if count.isdigit()]


def test_calibration_lies_on_its_line_where_probabilities_are_true():
    rng = np.random.default_rng(1)
    gene_flow = 1 / (1 + np.exp(-rng.normal(0, 4, 20_000)))
    responses = rng.random(20_000) < gene_flow
    x, y, counts = calibration(gene_flow, responses)
    assert sum(counts) == 20_000
    assert len(x) >= 6
    np.testing.assert_allclose(y, x, atol=0.03)
    assert x.min() < 0.005  # the tails, which ten equal bins would hide
    assert x.max() > 0.995
    assert (np.diff(x) > 0).all()


@pytest.mark.parametrize("gene_flow", [0.0, 0.001, 0.5, 1.0])
def test_calibration_of_one_probability(gene_flow):
    x, y, counts = calibration(np.full(50, gene_flow), np.arange(50) % 2)
    assert sum(counts) == 50
    assert (len(x), y.tolist()) == (1, [0.5])
    assert abs(x[0] - gene_flow) < 1e-4
    assert len(calibration(np.full(9, gene_flow), np.arange(9) % 2)[0]) == 0  # too few for a share


@pytest.mark.parametrize("n", [4, 100])
def test_attributions_sum_to_the_difference_in_log_odds(trained, network, n):
    """Between spectra and their origin, the mean of the training part as the network sees it."""
    from keras import Model, layers

    seen = runml.preprocess(np.load(trained[0] / "test_sfs.npy")[:n], False)
    origin = np.reshape(network.notes.learned["mean_input"], seen.shape[1:]).astype(np.float32)
    found = runml.attributions(network.model, seen, origin)
    assert found.shape == seen.shape[:3]

    first = next(layer for layer in network.model.layers if isinstance(layer, layers.Rescaling))
    behind = Model(first.input, network.model.output)  # from what the network sees to its probabilities

    def log_odds(points):
        probabilities = behind.predict(points, verbose=0).astype(float)
        return np.log(probabilities[:, 1]) - np.log(probabilities[:, 0])

    difference = log_odds(seen) - log_odds(origin[np.newaxis])
    assert np.ptp(difference) > 1
    np.testing.assert_allclose(found.sum(axis=(1, 2)), difference, rtol=0.02, atol=0.05)
    assert (found[:, 0, 0] == 0).all()  # the corners are no SNPs
    assert (found[:, -1, -1] == 0).all()


def test_the_origin_is_the_mean_of_the_training_part(trained, network):
    sfs = np.load(trained[0] / "simulated_sfs.npy")
    training, _ = runml.split_rows(len(sfs), network.notes.training.seed)
    mean = runml.preprocess(sfs[training], False).mean(axis=0, dtype=float)
    np.testing.assert_allclose(network.notes.learned["mean_input"], mean, rtol=1e-4, atol=1e-6)


# Tables.


def a_run(loss, losses=None, **changes):
    """A row as `--train` adds it to experiments.csv."""
    losses = losses or [2 * loss, loss]
    history = {"val_loss": losses, "val_accuracy": [0.5] * (len(losses) - 1) + [1 - loss / 2]}
    settings = runml.TrainingSettings(**changes)
    model = runml.build_network((3, 3), runml.TrainingSettings(layers=1))
    data = runml.Dataset(None, None, {"simulated_sfs.npy": "0123456789abcdef"}, None)
    row = runml.row_of_run(settings, model, history, 12.3, data)
    return {name: str(value) for name, value in row.items()}


def ranking(capsys, runs):
    """The lines of the ranking that begin with a place, and all that is printed."""
    runml.print_runs(runs)
    printed = capsys.readouterr().out
    return [line for line in printed.splitlines() if re.match(r"[> ] *\d+\. ", line)], printed


@functools.cache
def experiments():
    """The lesson, and what it suggests to change, one thing at a time."""
    return [
        a_run(0.0074),
        a_run(0.0063, layers=1),
        a_run(0.0092, layers=3),
        a_run(0.0067, dropout=0.0),
        a_run(0.0089, dropout=0.5),
        a_run(0.0115, learning_rate=1e-3),
        a_run(0.1844, learning_rate=1e-7),
        a_run(0.0080, epochs=5),
        a_run(0.0088, epochs=15),
    ]


def test_the_ranking_fits_into_80_columns(capsys):
    _, printed = ranking(capsys, experiments())
    assert [line for line in printed.splitlines() if len(line) > 80] == []


def test_the_lessons_experiments_can_be_told_apart_in_the_ranking(capsys):
    lines, _ = ranking(capsys, experiments())
    assert len(lines) == 9
    assert lines == sorted(lines, key=lambda line: float(line[1:].split()[1]))
    (marked,) = (line for line in lines if line.startswith(">"))
    assert "0.0088" in marked
    told = {tuple(line[1:].split()[4:]) for line in lines}
    assert len(told) == 9
    # Whatever the form, each has the setting in which it differs, whole.
    changed = {"0.0063": "1", "0.0115": "0.001", "0.1844": "1e-07", "0.0080": "5", "0.0088": "15"}
    for loss, value in changed.items():
        (line,) = (line for line in lines if loss in line)
        assert value in line[1:].split()[4:], line


def test_equal_runs_are_ranked_once(capsys):
    again = experiments()[0] | {"seconds": "14.0"}
    lines, _ = ranking(capsys, [experiments()[0], experiments()[1], again, again])
    assert len(lines) == 2
    assert [line.startswith(">") for line in lines] == [False, True]


@pytest.mark.parametrize("last", [0.001, 5.0], ids=["best", "worst"])
def test_the_ranking_says_how_many_it_leaves_out(capsys, last):
    runs = [a_run(0.01 + seed / 1000, seed=seed) for seed in range(1, 15)] + [a_run(last, seed=99)]
    lines, printed = ranking(capsys, runs)
    assert sum(line.startswith(">") for line in lines) == 1
    left_out = int(re.search(r"\((\d+) more", printed)[1])
    assert len(lines) + left_out == 15


def test_each_run_adds_a_row_that_tells_of_it(trained, network):
    (row,) = rows(trained[0] / "experiments.csv")
    assert (row["layers"], row["dropout"], row["epochs"], row["learning_rate"]) == (
        "2",
        "0.2",
        "4",
        "0.0001",
    )
    assert int(row["weights"]) == network.model.count_params()
    history = rows(trained[0] / "training_history.csv")
    assert len(history) == 4
    for what in ("loss", "accuracy"):
        curve = [float(word) for word in row[f"validation_{what}_by_epoch"].split()]
        np.testing.assert_allclose(curve, [float(line[f"val_{what}"]) for line in history], rtol=1e-3)
        assert float(row[f"validation_{what}"]) == pytest.approx(curve[-1], rel=1e-3)
    told = runml.load_dataset(trained[0]).checksums["simulated_sfs.npy"]
    assert told.startswith(row["data"])


def test_choosing_by_the_test_is_remarked(copy, capsys, monkeypatch, trained):
    assert "optimistic" not in trained[1].stdout
    assert "fresh replicates" in trained[1].stdout
    monkeypatch.setattr(runml, "save_picture", lambda *_: None)
    words = ("--test", "--n_test_reps", 3, "--workers", 1, "--data_dir", copy)
    _, printed, _ = run(capsys, *words)
    assert "optimistic" not in printed  # the same model, the same set
    assert "fresh replicates" not in printed
    path = copy / "trained_model.keras"
    other = runml.load_network(path)
    other.model.set_weights([array * 0.9 for array in other.model.get_weights()])
    runml.save_model(path, other.model, other.notes)
    status, printed, _ = run(capsys, *words)
    assert status == 0
    assert "2 different models have now met this test set" in printed
    _, printed, _ = run(capsys, *words, "--seed", 9)
    assert "optimistic" not in printed
    assert "fresh replicates" in printed
    log = rows(copy / "test_log.csv")
    assert [row["n_test"] for row in log] == ["100", "6", "6", "6"]
    assert len({row["model"] for row in log}) == 2
    assert [row["test_set"] == log[0]["test_set"] for row in log] == [True, True, True, False]


def grow(folder):
    """Read the table of runs as `--train` does, add a row, and write it."""
    table = runml.Table(folder / "experiments.csv", runml.RUN_NUMBERS)
    table.append(experiments()[0])
    table.save(folder)
    return rows(folder / "experiments.csv")


def test_a_table_keeps_what_people_do_to_it(tmp_path, capsys):
    """Excel's mark at the beginning and its ends of lines, a column of one's own, another order."""
    grow(tmp_path)
    path = tmp_path / "experiments.csv"
    header, row = path.read_text().splitlines()
    swapped = [",".join(line.split(",")[::-1]) for line in (header, row)]
    note = '"läuft, ""gut"" so"'
    path.write_bytes(f"\ufeff{swapped[0]},note\r\n{swapped[1]},{note}\r\n".encode())
    first, second = grow(tmp_path)
    assert first == experiments()[0] | {"note": 'läuft, "gut" so'}
    assert second == experiments()[0] | {"note": ""}
    assert len(grow(tmp_path)) == 3
    assert capsys.readouterr().out == ""
    assert [each.name for each in tmp_path.iterdir()] == ["experiments.csv"]


DAMAGES = {
    "rubbish": lambda text: b"\xff\xfe\x00" * 50 + b"\n" + bytes(range(256)),
    "cut": lambda text: text[:-40],
    "half a row": lambda text: text + b'a,"b\n1,2,nan',
    "semicolons": lambda text: text.replace(b",", b";"),
    "no columns of ours": lambda text: b"layers\n" * 5,
    "a column deleted": lambda text: text.replace(b"validation_loss,", b"loss,"),
    "a number misspelt": lambda text: text.replace(b"0.00740", b"o.00740"),
    "a number gone": lambda text: text.replace(b"0.00740", b""),
    "one endless word": lambda text: b"x" * 11_000_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_put_aside_and_a_new_one_begins(tmp_path, capsys, damage):
    grow(tmp_path)
    path, old = tmp_path / "experiments.csv", tmp_path / "experiments.old.csv"
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    old.write_text("precious")
    path.write_bytes(damaged)
    assert grow(tmp_path) == [experiments()[0]]
    told = capsys.readouterr().out
    (kept,) = (each for each in tmp_path.iterdir() if each not in (path, old))
    assert told.count("\n") == 1
    assert str(path) in told
    assert kept.name in told
    assert kept.read_bytes() == damaged
    assert old.read_text() == "precious"
    assert len(grow(tmp_path)) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("column", ["seconds", "data", "layers", "seed", "validation_accuracy"])
def test_a_column_that_a_user_deleted_costs_no_ranking(tmp_path, capsys, column):
    grow(tmp_path)
    path = tmp_path / "experiments.csv"
    at = path.read_text().splitlines()[0].split(",").index(column)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join(line[:at] + line[at + 1 :]) + "\n" for line in lines))
    table = runml.Table(path, runml.RUN_NUMBERS)
    table.append(experiments()[1])
    runml.print_runs(table.rows)
    figure = Figure()
    runml.draw_history(figure, {name: [0.5] for name in HISTORY}, table.rows)


# The screen.


def test_summaries_and_baselines_are_printed(trained, network):
    folder, done = trained
    sfs = np.load(folder / "simulated_sfs.npy")
    found = runml.summaries(sfs)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("F_ST "))
    for response in range(2):
        own = found["F_ST"][response::2]
        assert f"{np.median(own):.3f} ({own.min():.3f} to {own.max():.3f})" in line
    results = json.loads((folder / "test_results.json").read_text())
    accuracies = runml.accuracy_without_network(
        network.notes, np.load(folder / "test_sfs.npy"), np.arange(100) % 2
    )
    assert len(accuracies) == 3
    assert results["baselines"] == accuracies
    for name, accuracy in accuracies.items():
        assert re.search(rf"{accuracy:.4f} \(95% interval .*{re.escape(name)}", done.stdout)
    for rates in results["recognised_by_migration_rate"]:
        assert f"{rates['lowest']:.1e} to {rates['highest']:.1e}" in done.stdout


# Pictures.


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_there_and_not_blank(trained, name):
    picture = image.imread(trained[0] / name)[..., :3]
    assert min(picture.shape[:2]) >= 400
    shades = np.unique((picture * 15).astype(int).reshape(-1, 3), axis=0)
    assert len(shades) > 10
    assert 0.02 < (picture.min(axis=2) < 0.9).mean() < 0.9


SHAPES_OF_GENE_FLOW = {
    "secondary contact": ({}, ("gene flow from",)),
    "isolation with migration": ({"gene_flow_start": runml.Prior(1, 1)}, ()),
    "early only": (
        {"gene_flow_start": runml.Prior(1, 1), "gene_flow_stop": runml.Prior(0.5, 0.5)},
        ("to 137,500",),
    ),
    "nobody knows": (
        {"gene_flow_start": runml.Prior(0, 1), "gene_flow_stop": runml.Prior(0, 1)},
        ("gene flow",),
    ),
    "both ways": ({"asymmetric": True, "migration_prior": runml.Prior(1e-7, 1e-3, "log")}, ("1e-05",)),
    "young": ({"tdiv_prior": runml.Prior(1e3, 1e3)}, ("1,000",)),
}


@pytest.mark.parametrize("shape", SHAPES_OF_GENE_FLOW)
def test_models_are_drawn_under_other_settings(shape):
    changes, words = SHAPES_OF_GENE_FLOW[shape]
    figure = Figure()
    runml.draw_models(figure, runml.replace(runml.SimulationSettings(), **changes))
    written = texts(figure)
    for word in ("divergence", "gene flow", *words):
        assert word in written
    spans = [patch for patch in figure.axes[1].patches if hasattr(patch, "get_height")]
    assert [span for span in spans if span.get_height() > 0]  # the time of gene flow


HISTORY = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}


def history_picture(runs):
    figure = Figure()
    losses = [float(word) for word in runs[-1]["validation_loss_by_epoch"].split()]
    shares = [float(word) for word in runs[-1]["validation_accuracy_by_epoch"].split()]
    history = {"loss": losses, "val_loss": losses, "accuracy": shares, "val_accuracy": shares}
    runml.draw_history(figure, history, runs)
    figure.draw_without_rendering()
    return figure


def test_curves_are_named_by_the_settings_in_which_runs_differ():
    figure = history_picture(experiments()[:4])
    (legend,) = figure.legends  # one for both panels
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names))
    for words in ("--layers 1", "--layers 3"):
        assert any(words in name for name in names)
    assert not any("--epochs" in name for name in names)  # the same in all
    assert sum("dropout 0.0" in name for name in names) == 1  # this run's own, named too
    for axes in figure.axes:
        drawn = {line.get_label(): line.get_color() for line in axes.get_lines()}
        assert names == list(drawn)
        assert len(set(drawn.values())) == len(drawn)


def test_a_setting_keeps_its_colour_from_picture_to_picture():
    runs = experiments()[:4]
    looks = [
        {
            line.get_label(): (line.get_color(), line.get_linestyle())
            for line in history_picture(some).axes[0].get_lines()
            if "--layers" in line.get_label() and line.get_linewidth() == 1
        }
        for some in (runs[:3], runs)
    ]
    assert looks[0]
    assert looks[0].items() <= looks[1].items()


def test_the_loss_of_a_coin_is_drawn_only_where_it_is_in_view():
    for losses, there in (([0.02, 0.01], False), ([0.69, 0.5], True)):
        figure = history_picture([a_run(losses[-1], losses)])
        assert any("coin" in line.get_label() for line in figure.axes[0].get_lines()) == there


def test_a_bad_run_squashes_no_axis():
    good = [a_run(0.01, [0.02, 0.011, 0.01], seed=seed) for seed in range(4)]
    bad = a_run(30.0, [0.69, 10, 30], learning_rate=1.0)
    bad["validation_accuracy_by_epoch"] = "0.5 0.5 0.5"
    loss, _ = history_picture([*good, bad, good[0] | {"seed": "9"}]).axes
    assert loss.get_ylim()[1] < 1
    assert loss.get_ylim()[0] < 0.01


def test_the_first_run_is_drawn_alone():
    figure = history_picture([experiments()[0]])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"training", "validation"} <= set(names)


def test_curves_of_one_epoch_of_nothing_but_noughts_and_ones():
    row = a_run(0.0, [1e-12])
    row["validation_accuracy_by_epoch"] = "1.0000"
    history_picture([row])


def report(network, trained, **changes):
    folder = trained[0]
    sfs, parameters = (np.load(folder / f"test_{part}.npy") for part in ("sfs", "parameters"))
    probabilities = changes.get("probabilities", runml.predict_probabilities(network.model, sfs))
    results = runml.evaluate(probabilities, np.arange(100) % 2)
    results |= {"baselines": {"logistic regression": 0.99}}
    figure = Figure()
    runml.draw_test(figure, results, probabilities, parameters, network, sfs)
    return figure


def test_where_nothing_is_mistaken_the_report_says_what_would_bring_mistakes(network, trained):
    sure = np.eye(2, dtype=np.float32)[np.arange(100) % 2]
    written = texts(report(network, trained, probabilities=sure))
    assert "no mistakes among these" in written
    assert "mistakes (black): 0 of 100" in written


def test_the_report_counts_mistakes_and_its_ticks_do_not_overlap(network, trained):
    figure = report(network, trained)
    wrong = runml.predict_probabilities(network.model, np.load(trained[0] / "test_sfs.npy"))
    wrong = (wrong.argmax(axis=1) != np.arange(100) % 2).sum()
    assert f"mistakes (black): {wrong} of 100" in texts(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        for axis, end in ((axes.xaxis, 0), (axes.yaxis, 1)):
            labels = [
                label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()
            ]
            boxes = sorted(
                label.get_window_extent(renderer).get_points()[:, end].tolist() for label in labels
            )
            for one, other in itertools.pairwise(boxes):
                assert one[1] <= other[0] + 3, (axes.get_title(), [label.get_text() for label in labels])


def test_smallest_data_are_drawn(tmp_path):
    """Almost no SNPs, the fewest replicates, a machine where nothing but the folder can be written,
    and Jupyter's environment."""
    words = ("--n_reps", 5, "--sample_size", 1, 2, "--sequence_length", 300, "--tdiv_prior", 1e5, 1e5)
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    surroundings = {"MPLCONFIGDIR": str(nowhere), "HOME": str(nowhere)}
    surroundings["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    done = command(
        *("--simulate", "--train", "--test", "--n_test_reps", 1, "--epochs", 1, *words),
        *("--data_dir", tmp_path / "data"),
        env=os.environ | surroundings,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "atplotlib" not in done.stdout
    for name in PICTURES:
        assert image.imread(tmp_path / "data" / name).std() > 0


def test_a_picture_that_fails_costs_a_line_and_nothing_else(tmp_path, capsys):
    for name in PICTURES:
        (tmp_path / name).mkdir()  # so it cannot be replaced
    words = ("--n_reps", 5, "--sequence_length", 500, "--epochs", 1, "--n_test_reps", 5, "--workers", 1)
    status, printed, error = run(
        capsys, "--simulate", "--train", "--test", *words, "--data_dir", tmp_path
    )
    assert status == 0
    assert error.count("\n") == len(PICTURES)
    for name in PICTURES:
        assert f"{tmp_path / name} could not be drawn (" in error
    assert "See " not in printed
    names = {path.name for path in contents(tmp_path)}
    assert names >= {"simulated_sfs.npy", "trained_model.keras", "test_results.json", "test_log.csv"}


def test_an_old_picture_never_stands_beside_new_numbers(tmp_path, capsys):
    def fail(figure):
        raise MemoryError("no\nmemory")

    (tmp_path / "a.png").write_text("old")
    runml.save_picture(tmp_path / "a.png", fail)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        f"{tmp_path / 'a.png'} could not be drawn (no). The numbers are saved.\n"
    )
