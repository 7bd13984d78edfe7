"""Cycles of the NPU beside the Ethos-U compiler's estimates for the same networks.

    python -m benchmarks.npu_vela [--network NAME ...] [--npu NAME ...] [--layers] [--mechanisms]

The estimates are Vela 5.2's, in the zoo's vela_estimates.csv, for machines with as many multipliers and the
same memories as our presets. Both are estimates: Vela's formulas know no queues, tokens or requests on their
way; our cycles come from a simulator that has been compared with a hardware description (`python -m
sim.validate`). What the host computes (the edges between floats and codes) is in neither.

Vela's networks are TFLite's: one scale for all weights of a dense layer, which compress better. The
autoencoder, made of dense layers alone, is quantized alike; all others have a scale for each channel.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.cases import ZOO_VARIABLE, CaseError, load_case
from compiler.driver import QuantizeOptions, import_float, quantize_imported
from compiler.ir.graph import Graph
from compiler.numerics.element import ElementType
from compiler.quantize.calibration_run import read_calibration
from compiler.quantize.quantize_graph import WeightWidths
from schedules.npu_mechanisms import ALL, Mechanism
from sim.config import NpuConfig, load_config
from targets.streams.lowering import lower_to_streams
from targets.streams.model import NpuModel, model_of
from targets.streams.running import ModelTiming, time_model

# Names in the estimates -> the zoo's models, and our presets.
NETWORKS = {
    "ad01_int8": "ad01_autoencoder",
    "ic_resnet8_int8": "ic_resnet8",
    "kws_dscnn_int8": "kws_dscnn",
    "vww_mbv1_025_int8": "vww_mbv1_025",
    "tf2_mobilenet_v2_1.0_224_ptq": "mbv2_100_224_deq",
}
PRESETS = {"Ethos_U55_128": "npu-128", "Ethos_U55_256": "npu-256", "Ethos_U65_512": "npu-512"}
DENSE = ("ad01_autoencoder",)  # one scale for each layer's weights


@dataclass(frozen=True, slots=True)
class Estimate:
    """Vela's for one network on one machine."""

    network: str
    npu: str
    cycles: int
    off_chip_bytes: int


def estimates() -> list[Estimate]:
    """Errors: CaseError where there is no zoo."""
    folder = os.environ.get(ZOO_VARIABLE)
    if folder is None:
        raise CaseError(f"the estimates and networks are in the zoo: set {ZOO_VARIABLE}")
    with (Path(folder) / "vela_estimates.csv").open() as file:
        return [
            Estimate(
                NETWORKS[row["net"]],
                PRESETS[row["accel"]],
                int(float(row["cyc_total"])),
                int(float(row["offchipTrafficKiB"]) * 1024),
            )
            for row in csv.DictReader(file)
        ]


@cache
def quantized(name: str, weights: ElementType = ElementType.I8) -> Graph:
    """A model of the zoo; calibrated on a few inputs, for codes hardly change what is counted here.

    Errors: CaseError where there is no zoo.
    """
    if ZOO_VARIABLE not in os.environ:
        raise CaseError(f"networks are in the zoo: set {ZOO_VARIABLE}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ[ZOO_VARIABLE]) / "models" / f"{name}.onnx"
        try:
            case = load_case(name, Path(folder))
        except CaseError:  # the zoo has a model without data
            case = load_case(str(path), Path(folder))
        imported = import_float(case.model)
        samples = read_calibration(list(case.calibration[:4]), imported.graph)
        options = QuantizeOptions(weights=WeightWidths(weights, by_channel=name not in DENSE))
        return quantize_imported(imported, samples, options).graph


def layer_rows(model: NpuModel, timing: ModelTiming) -> Iterator[str]:
    for layer in timing.layers:
        s = layer.statistics
        utilisation = s.macs / (layer.cycles * model.config.macs_per_cycle) if layer.cycles else 0.0
        busy = {name: max(core[name].busy for core in s.engines) for name in s.engines[0]}
        engines = " ".join(f"{name} {cycles:>8}" for name, cycles in busy.items())
        yield f"    {layer.value[-40:]:40} {layer.cycles:>9} {utilisation:6.1%}  {engines}"


def earned(graph: Graph, config: NpuConfig, cycles: int) -> Iterator[str]:
    """What each mechanism earns: how much longer the network takes without that one alone."""
    for m in Mechanism:
        program = lower_to_streams(graph, config, mechanisms=ALL - {m})
        without = time_model(model_of(program, "without")).cycles
        yield f"    {without / cycles - 1:+6.1%} without: {m.value}"


def compare(wanted: Sequence[Estimate], layers: bool, mechanisms: bool) -> None:
    ratios: list[float] = []
    print(f"{'network':18} {'npu':8} {'cycles':>10} {'Vela':>10} ratio   MACs  DRAM KB (Vela)  limit")
    for e in wanted:
        config = load_config(e.npu)
        model = model_of(lower_to_streams(quantized(e.network), config), e.network)
        timing = time_model(model)
        ratio = timing.cycles / e.cycles
        ratios.append(ratio)
        macs = sum(s.macs for s in timing.totals)
        dram = sum(s.dram_bytes for s in timing.totals)
        limits = "/".join(sorted({s.limit for s in timing.totals}))
        print(
            f"{e.network:18} {e.npu:8} {timing.cycles:>10} {e.cycles:>10} {ratio:5.2f} "
            f"{macs / (timing.cycles * config.macs_per_cycle):6.1%} {dram / 1024:>8.0f} "
            f"({e.off_chip_bytes / 1024:.0f})  {limits}",
            flush=True,
        )
        if layers:
            print("\n".join(layer_rows(model, timing)))
        if mechanisms:
            for line in earned(quantized(e.network), config, timing.cycles):
                print(line, flush=True)
    mean = float(np.exp(np.mean(np.log(ratios))))
    print(f"geometric mean {mean:.3f}, largest {max(ratios):.3f}, {len(ratios)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS.values()), action="append")
    parser.add_argument("--npu", choices=list(PRESETS.values()), action="append")
    parser.add_argument("--layers", action="store_true", help="each layer's cycles, utilisation and engines")
    parser.add_argument("--mechanisms", action="store_true", help="what each of ours earns")
    options = parser.parse_args()
    try:
        wanted = [
            e
            for e in estimates()
            if e.network in (options.network or NETWORKS.values())
            and e.npu in (options.npu or PRESETS.values())
        ]
        compare(wanted, options.layers, options.mechanisms)
    except CaseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
