"""Callbacks on scripted numbers and in real training: when they stop, what they save and log."""

import csv
import math

import pytest
from networks import compiled, photos, same_bits

from tinycnn.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint
from tinycnn.errors import DataError, TinycnnError, UsageError
from tinycnn.models import load_model

X, Y = photos(8)


class Script(Callback):
    """Puts a number of a script into each epoch's logs, before the callbacks that come after it see them."""

    def __init__(self, *numbers, name="number"):
        self.numbers, self.name = numbers, name

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.numbers[epoch]


def _fit(*callbacks, epochs=8, model=None):
    return (model or compiled()).fit(X, Y, epochs=epochs, verbose=0, callbacks=callbacks)


STOPS = [  # numbers, arguments, epochs that run
    ((3, 2, 1, 0), {}, 4),
    ((3, 2, 2, 0), {}, 3),
    ((3, 2, 3, 3, 1, 0), {"patience": 2}, 4),
    ((3, 2, 3, 1, 3, 3, 0), {"patience": 2}, 6),
    ((3, 2.9, 2.8, 2.7), {"min_delta": 0.5}, 2),
    ((3, 2.9, 2.8, 2.7), {"min_delta": -0.5}, 2),  # its sign does not count
    ((1, 2, 3, 3), {"mode": "max"}, 4),
    ((1, 2, 1, 3), {"mode": "max", "patience": 1}, 3),
    ((1, 2, 1), {"monitor": "val_accuracy"}, 3),  # "auto": the larger the better
    ((3, math.nan, math.nan, 1), {"patience": 2}, 3),
]


@pytest.mark.parametrize(("numbers", "arguments", "ran"), STOPS)
def test_early_stopping(numbers, arguments, ran):
    name = arguments.get("monitor", "number")
    stop = EarlyStopping(**{"monitor": name, **arguments})
    history = _fit(Script(*numbers, name=name), stop, epochs=len(numbers))
    assert len(history.epoch) == ran
    assert stop.stopped_epoch == (0 if ran == len(numbers) and not stop.model.stop_training else ran - 1)


@pytest.mark.parametrize("stops", [True, False])
def test_the_best_weights_come_back(stops):
    class Keep(Callback):
        def on_train_begin(self):
            self.weights = []

        def on_epoch_end(self, epoch, logs):
            self.weights.append(self.model.get_weights())

    model, keep = compiled(), Keep()
    patience = 2 if stops else 9
    restore = EarlyStopping("number", patience=patience, restore_best_weights=True)
    history = _fit(Script(3, 1, 2, 2, 2), restore, keep, epochs=5, model=model)
    assert len(history.epoch) == (4 if stops else 5)
    assert same_bits(model.get_weights(), keep.weights[1])
    assert not same_bits(model.get_weights(), keep.weights[2])


def test_early_stopping_serves_a_second_run_afresh():
    stop = EarlyStopping("number", patience=2)
    _fit(Script(0, 1, 1), stop, epochs=3)
    assert len(_fit(Script(5, 4, 3, 2), stop, epochs=4).epoch) == 4


@pytest.mark.parametrize(
    "make", [EarlyStopping, lambda **named: ModelCheckpoint("never", **named, save_best_only=True)]
)
def test_what_is_not_there_cannot_be_watched(make):
    with pytest.raises(UsageError, match="nothing is called 'val_loss'; monitor one of loss, accuracy"):
        _fit(make(monitor="val_loss"))
    with pytest.raises(UsageError, match="mode 'best' is not auto, min or max"):
        make(monitor="loss", mode="best")


def test_checkpoints_are_named_after_epoch_and_numbers(tmp_path):
    model = compiled()
    _fit(
        Script(0.5, 0.125), ModelCheckpoint(tmp_path / "m.{epoch:02d}-{number:.2f}.safetensors"), epochs=2, model=model
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.01-0.50.safetensors", "m.02-0.12.safetensors"]
    assert same_bits(load_model(tmp_path / "m.02-0.12.safetensors").get_weights(), model.get_weights())


@pytest.mark.parametrize(("mode", "saved"), [("min", [1, 3]), ("max", [1, 2, 4]), ("auto", [1, 3])])
def test_only_the_best_is_saved(tmp_path, mode, saved):
    best = ModelCheckpoint(str(tmp_path / "{epoch}.safetensors"), "number", save_best_only=True, mode=mode)
    _fit(Script(3, 4, 2, 5, 2), best, epochs=5)
    assert sorted(int(p.stem) for p in tmp_path.iterdir()) == saved


@pytest.mark.parametrize("field", ["{nope}", "{epoch:zz}", "{"])
def test_a_file_name_that_cannot_be_filled_is_one_clear_line(tmp_path, field):
    with pytest.raises(TinycnnError, match="ModelCheckpoint"):
        _fit(ModelCheckpoint(tmp_path / f"{field}.safetensors"))
    assert not list(tmp_path.iterdir())


def _rows(path, **options):
    with path.open(newline="") as file:
        return list(csv.reader(file, **options))


def test_the_csv_log_has_a_line_for_each_epoch(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("an older log\n")
    history = _fit(CSVLogger(path), epochs=2).history
    head, *rows = _rows(path)
    assert head == ["epoch", "loss", "accuracy"]
    assert [[int(row[0]), *map(float, row[1:])] for row in rows] == [
        [e, history["loss"][e], history["accuracy"][e]] for e in range(2)
    ]


def test_a_csv_log_can_go_on(tmp_path):
    path = tmp_path / "log.tsv"
    for first in (0, 2):
        log = CSVLogger(path, separator="\t", append=True)
        compiled().fit(X, Y, epochs=first + 2, initial_epoch=first, verbose=0, callbacks=[log])
    rows = _rows(path, delimiter="\t")
    assert [row[0] for row in rows] == ["epoch", "0", "1", "2", "3"]
    assert "\r" not in path.read_text()


def test_a_csv_log_that_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"log\.csv"):
        _fit(CSVLogger(tmp_path / "absent" / "log.csv"))
