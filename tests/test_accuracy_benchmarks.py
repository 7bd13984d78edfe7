"""The accuracy benchmarks count and measure what they say."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import Labelled, compare, load_labelled, sqnr_db
from benchmarks.layer_noise import compare_layers
from compiler.numerics.element import ElementType
from compiler.passes.base import Notes
from compiler.quantize.observers.base import Range
from compiler.quantize.quantize_graph import WeightWidths, quantize_graph
from compiler.quantize.types import activation_types
from tests.ir_text import graph

ROOT = Path(__file__).parent.parent


def test_sqnr_is_decibels_of_energy() -> None:
    signal = [np.full(10, 2.0, np.float32)]
    assert sqnr_db(signal, [np.full(10, 2.2, np.float32)]) == pytest.approx(20.0, abs=1e-4)
    assert sqnr_db(signal, signal) == math.inf


def test_drops_and_agreements_are_counted() -> None:
    inputs = [np.array([i], np.float32) for i in range(4)]
    case = Labelled("m", Path(), "x", [], inputs, np.array([0, 1, 0, 1]))
    expected = [[np.array(scores, np.float32)] for scores in ([1, 0], [0, 1], [1, 0], [1, 0])]
    answers = iter([[1, 0], [0, 1], [0, 1], [0, 1]])
    found = compare(case, expected, lambda _: [np.array(next(answers), np.float32)])
    assert (found.inputs, found.correct_float, found.correct_ours, found.agree) == (4, 3, 3, 2)
    assert found.drop == 0.0


def test_own_noise_is_that_of_a_tensors_type_alone() -> None:
    """A dense layer with exact weights behind a coarse input: its noise is inherited."""
    exact = graph("""
        input %x: f32[1,2]
        %w = [[1, 1], [1, -1]] : f32[2,2]
        %y = dense(%x, %w) : f32[1,2]
        output %y
        """)
    ranges = {v: Range(-100.0, 100.0) if v.name == "x" else Range(-2.0, 2.0) for v in exact.values()}
    types = activation_types(exact, ranges, ElementType.I8)
    quantized = quantize_graph(exact, types, WeightWidths(), Notes())
    rng = np.random.default_rng(0)
    samples = [{"x": rng.uniform(-1, 1, (1, 2)).astype(np.float32)} for _ in range(20)]
    energies = compare_layers(exact, quantized, samples).energies
    all_x, own_x = energies["x"].decibels()
    all_y, own_y = energies["y"].decibels()
    assert all_x == pytest.approx(own_x, abs=0.1)
    assert own_y > all_y + 20


def test_the_letters_from_the_command_line() -> None:
    command = [sys.executable, "-m", "benchmarks.accuracy", "letters", "--count", "100"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    row = re.search(r"^letters +minmax +100 +([\d.]+) +([\d.]+) +(-?[\d.]+) ", done.stdout, re.MULTILINE)
    assert row is not None, done.stdout
    assert float(row[1]) - float(row[2]) == pytest.approx(float(row[3]), abs=0.01)
    assert float(row[3]) <= 2.0
    case = load_labelled("letters")
    assert case.labels is not None and len(case.labels) == len(case.evaluation) == 1040
