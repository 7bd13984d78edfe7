"""A library through its C functions and through `bitloom.load`."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitloom.loading import LoadError, Model, RunError, load
from targets.library.description import CpuFeature
from targets.library.emit import RUNTIME_INCLUDE
from tests.library_kernels import BIAS, SCALE, SHAPE, ZERO_POINT, Built, build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.float32)


def quantized(x: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(x / SCALE + 0.5) + ZERO_POINT, -128, 127).astype(np.int8)


def expected_codes(codes: np.ndarray) -> np.ndarray:
    return np.clip(codes.astype(int) + np.array(BIAS).reshape(1, -1, 1, 1), -128, 127).astype(np.int8)


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 8])
def test_float_and_code_edges_agree_with_the_definition(tiny: Built, x: np.ndarray, threads: int) -> None:
    codes = expected_codes(quantized(x))
    with load(tiny.files.manifest.parent, threads) as model:
        for _ in range(50):
            real = model(x)
            integer = model(quantized(x))
            assert isinstance(real, dict) and isinstance(integer, dict)
            np.testing.assert_array_equal(real["y"], SCALE * (codes.astype(np.float32) - ZERO_POINT))
            np.testing.assert_array_equal(integer["y"], codes)
            assert integer["y"].dtype == np.int8
            assert real["total"] == integer["total"] == codes.sum(dtype=np.int64)


@pytest.mark.parametrize("convert", [lambda x: x, quantized], ids=["float", "codes"])
def test_layers_gives_the_logical_codes_of_each_step(
    tiny: Built, x: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]
) -> None:
    with load(tiny.files.shared, 2) as model:
        found = {step.label: codes for step, codes in model.layers({"x": convert(x)})}
    assert list(found) == ["quantize x", "add", "total"]
    np.testing.assert_array_equal(found["quantize x"], quantized(x))
    np.testing.assert_array_equal(found["add"], expected_codes(quantized(x)))
    assert found["quantize x"].dtype == np.int8 and found["total"].shape == (1,)


@pytest.mark.parametrize("threads", [1, 3])
def test_profile_times_each_step_in_each_run(tiny: Built, x: np.ndarray, threads: int) -> None:
    with load(tiny.files.manifest, 1) as model:
        before = model({"x": x})
        profile = model.profile({"x": x}, repeat=7, threads=threads)
        after = model({"x": x})
    assert tuple(step for step, _ in profile) == model.steps
    assert all(seconds.shape == (7,) and (seconds > 0).all() for _, seconds in profile)
    assert isinstance(before, dict) and isinstance(after, dict)
    np.testing.assert_array_equal(before["y"], after["y"])


def test_serves_as_an_onnxruntime_session(tiny: Built, x: np.ndarray) -> None:
    with load(tiny.files.manifest) as model:
        assert [(p.name, p.shape, p.type) for p in model.get_inputs()] == [("x", SHAPE, "tensor(float)")]
        assert [(p.name, p.type) for p in model.get_outputs()] == [
            ("y", "tensor(float)"),
            ("total", "tensor(int32)"),
        ]
        total, y = model.run(["total", "y"], {"x": x})
        assert total.shape == (1,) and y.shape == SHAPE
        assert len(model.run(None, {"x": x})) == 2
        with pytest.raises(ValueError, match='no output "z"; the outputs are y, total'):
            model.run(["z"], {"x": x})


def test_an_array_need_not_be_contiguous_or_aligned(tiny: Built, x: np.ndarray) -> None:
    strided = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    odd = np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(SHAPE)
    with load(tiny.files.manifest) as model:
        for array in (strided, odd):
            np.testing.assert_array_equal(model.run(["y"], {"x": array})[0], model.run(["y"], {"x": x})[0])


def test_wrong_arrays_are_refused_by_name(tiny: Built, x: np.ndarray) -> None:
    with load(tiny.files.manifest) as model:
        with pytest.raises(ValueError, match=r'input "x" has shape \[3, 8, 10\], expected \[1, 3, 8, 10\]'):
            model(x[0])
        with pytest.raises(ValueError, match=r'input "x" is float64, expected float32 \(or codes as int8\)'):
            model(x.astype(np.float64))
        with pytest.raises(ValueError, match="tiny takes x: missing x, unknown image"):
            model(image=x)
        with pytest.raises(ValueError, match="2 arrays for 1 inputs"):
            model(x, x)


def test_time_gives_one_figure_per_run(tiny: Built, x: np.ndarray) -> None:
    with load(tiny.files.manifest, 1) as model:
        seconds = model.time(x, repeat=5)
    assert seconds.shape == (5,) and (seconds > 0).all()


def test_a_model_ends_when_closed_and_is_not_pickled(tiny: Built, x: np.ndarray) -> None:
    model = load(tiny.files.manifest)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(model)
    model.close()
    model.close()
    with pytest.raises(RunError, match="tiny is closed"):
        model(x)


def test_two_contexts_run_in_two_threads(tiny: Built) -> None:
    inputs = [np.full(SHAPE, value, np.float32) for value in (-20, 11)]
    failures: list[int] = []

    def work(model: Model, x: np.ndarray) -> None:
        codes = expected_codes(quantized(x))
        for _ in range(200):
            if not np.array_equal(model.run(["y"], {"x": quantized(x)})[0], codes):
                failures.append(1)

    models = [load(tiny.files.manifest, 2) for _ in inputs]
    workers = [threading.Thread(target=work, args=pair) for pair in zip(models, inputs, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_impossible_thread_counts_are_refused(tiny: Built) -> None:
    for threads in (-1, 257):
        with pytest.raises(LoadError, match="number of threads must be 0"):
            load(tiny.files.manifest, threads)


def test_a_cpu_without_the_features_is_told_so(tmp_path: Path) -> None:
    # Never both on one machine.
    built = build(tmp_path, features=(CpuFeature.AVX2, CpuFeature.ASIMDDP))
    with pytest.raises(
        LoadError, match=r"plain needs the CPU feature (avx2|asimddp), which this CPU does not have"
    ):
        load(built.files.manifest)


def test_the_runtime_knows_every_feature() -> None:
    text = (RUNTIME_INCLUDE / "bitloom_cpu.h").read_text()
    names = text[text.index("enum bl_cpu_feature {") :].split("}")[0].split("{")[1]
    assert [name.strip() for name in names.split(",")] == [f"BL_CPU_{feature.name}" for feature in CpuFeature]


def test_what_is_no_library_is_refused(tiny: Built, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no"):
        load(tmp_path / "absent")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(LoadError, match="it holds none"):
        load(tmp_path)
    manifest = tmp_path / "tiny.json"
    manifest.write_text(tiny.files.manifest.read_text())
    with pytest.raises(LoadError, match="cannot load"):
        load(tmp_path)
    (tmp_path / "libtiny.so").write_bytes(tiny.files.shared.read_bytes())
    build_line = next(line for line in manifest.read_text().splitlines() if '"build"' in line)
    manifest.write_text(manifest.read_text().replace(build_line, ' "build": "0"'))
    with pytest.raises(LoadError, match="come from different builds"):
        load(tmp_path)
