"""NPU configurations: presets, and every way to get one wrong."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sim.config import PRESETS, ConfigError, NpuConfig, config_from, load_config, preset_names

CONFIG = Path(__file__).parents[1] / "sim/configs/npu-128.toml"


def table(**changes: Any) -> dict[str, Any]:
    """npu-128 with `section__key=value` changed; None takes the key out."""
    found = tomllib.loads(CONFIG.read_text())
    for path, value in changes.items():
        *sections, key = path.split("__")
        at = found
        for section in sections:
            at = at[section]
        if value is None:
            del at[key]
        else:
            at[key] = value
    return found


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_called_by_name_or_path(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert load_config(PRESETS / f"{name}.toml") == config


def test_macs_and_memory_of_the_presets() -> None:
    """What their names promise; the memory inside a core is that of the Ethos-U of the same size."""
    presets = {name: load_config(name) for name in preset_names()}
    assert {n: c.macs_per_cycle for n, c in presets.items()} == {
        "npu-128": 128,
        "npu-256": 256,
        "npu-512": 512,
    }
    kib = {n: c.scratchpad.total_bytes / 1024 for n, c in presets.items()}
    assert kib == {"npu-128": 24, "npu-256": 48, "npu-512": 48}
    assert {n: c.cores for n, c in presets.items()} == {"npu-128": 1, "npu-256": 1, "npu-512": 2}


@pytest.mark.parametrize(
    ("act", "wgt", "times"),
    [(16, 8, 0.5), (8, 8, 1), (8, 4, 2), (4, 8, 2), (4, 4, 4), (8, 2, 4), (4, 2, 8), (2, 2, 16), (1, 1, 32)],
)
def test_products_in_a_cycle_by_width(act: int, wgt: int, times: float) -> None:
    mac = load_config("npu-128").mac
    assert mac.reduction_lanes(act) * mac.output_lanes(act, wgt) == times * mac.rows * mac.columns


def _keys(cls: type[Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in dataclasses.fields(cls):
        inner = getattr(load_config("npu-128"), field.name) if cls is NpuConfig else None
        nested = dataclasses.is_dataclass(inner)
        found += _keys(type(inner), f"{field.name}__") if nested else [prefix + field.name]
    return found


@pytest.mark.parametrize("key", _keys(NpuConfig))
def test_every_key_must_stand(key: str) -> None:
    with pytest.raises(ConfigError, match=f"key {key.replace('__', '.')} is missing"):
        config_from(table(**{key: None}))


@pytest.mark.parametrize("key", _keys(NpuConfig))
def test_every_key_has_one_type(key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", ".")):
        config_from(table(**{key: [1]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mac__row": 8}, "unknown key mac.row; known are rows, columns, weight_port_bytes"),
        ({"core": 1}, "unknown key core; known are name, cores"),
        ({"cores": 0}, "cores is 0, it must be at least 1"),
        ({"cores": 12}, "cores is 12, the semaphores between cores join at most 11: fewer cores with larger"),
        ({"mac__rows": 12}, "mac.rows is 12, it must be a power of two"),
        ({"mac__accumulator_port_bits": 128}, "8 columns need 256"),
        ({"scratchpad__activation_banks": 0}, "scratchpad.activation_banks is 0, ping-pong needs at least 2"),
        (
            {"scratchpad__weight_banks": 5},
            "weight_bytes is 6144, not a multiple of weight_banks = 5",
        ),
        ({"scratchpad__weight_bytes": 256}, "does not hold the 16 x 8 weights of the array: at least 512"),
        ({"scratchpad__activation_bytes": 64}, "a bank must hold the 16 bytes that the array takes"),
        ({"scratchpad__accumulator_words": 64}, "at least 128"),
        ({"scratchpad__accumulator_words": 1535}, "two halves need an even number"),
        ({"scratchpad__activation_bytes": 1 << 21}, "instructions can address 1048576"),
        ({"vec__lanes": 0}, "vec.lanes is 0, it must be at least 1"),
        ({"sram__bytes_per_cycle": 0}, "sram.bytes_per_cycle is 0.0, it must be above 0"),
        ({"dram__burst_bytes": 100}, "dram.burst_bytes is 100, it must be a power of two"),
        ({"sram__burst_bytes": 4}, "sram.burst_bytes is 4, below the 8.0 bytes of a cycle"),
        ({"energy__mac_pj": -1.0}, "energy.mac_pj is negative"),
        ({"sram": 1}, "sram must be a table, not 1"),
        ({"clock_hz": True}, "clock_hz must be of type int, not True"),
    ],
)
def test_a_bad_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(table(**changes))
    assert message in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no NPU 'npu-1': presets are npu-128, npu-256, npu-512, or"):
        load_config("npu-1")
    broken = tmp_path / "broken.toml"
    broken.write_text("cores = ")
    with pytest.raises(ConfigError, match=r"broken\.toml: "):
        load_config(broken)
