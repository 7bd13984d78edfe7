"""Kernel templates for GPUs as a tuner sees them: register tiles, bytes of a load, shapes of work-groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from random import Random
from statistics import fmean
from typing import Any, TypeVar

from compiler.loops.form import Convolution, Form
from compiler.lowering.kernel import KernelConfig, KernelPlan
from schedules.mali import GpuPlan
from schedules.mali_channels import refusal
from schedules.mali_convolution import (
    ClConvolutionConfig,
    ClConvolutionPlan,
    block_choices,
    default_block,
    plan_cl_convolution,
)
from schedules.mali_cost import estimates
from schedules.mali_depthwise import ClDepthwiseConfig, ClDepthwisePlan, plan_cl_depthwise
from schedules.mali_kernel import BY_RULE, ClKernel, Sizes, covering, work_group
from schedules.mali_loops import ClLoopsConfig, ClLoopsPlan, default_config, plan_cl_loops
from schedules.mali_machines import GpuMachine
from schedules.tuning.templates import Template, steps

_MOST_PIXELS = 8
_CHANNELS = (1, 2, 4, 8)
_LANES = (4, 8, 16)
_VECTOR_BYTES = (4, 8, 16, 32, 64)
# Sums of a tile, of 32 bits: more have no registers on any of the machines.
_MOST_SUMS = 64

ConfigT = TypeVar("ConfigT", ClConvolutionConfig, ClDepthwiseConfig, ClLoopsConfig)


class ClConvolutionTemplate:
    name, module, config = "opencl convolution", "schedules.mali_convolution", ClConvolutionConfig

    def takes(self, form: Form, machine: GpuMachine) -> bool:
        return isinstance(form, Convolution) and not form.depthwise and refusal(form) is None

    def plan(self, form: Form, machine: GpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, ClConvolutionConfig)
        if config.pixels * config.channels > _MOST_SUMS:
            raise ValueError(f"{config.pixels}x{config.channels} sums leave no registers")
        plan = plan_cl_convolution(form, machine, config)
        _check_settled(config, _settled(form, machine, config))
        return plan

    def ordered(self, form: Form, machine: GpuMachine) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution)
        tiles = product((1, 2, 4, 8), _CHANNELS, block_choices(form))
        found = [ClConvolutionConfig(pixels=p, channels=c, block=b) for p, c, b in tiles]
        yield from _by_estimate(self, form, machine, [_settled(form, machine, c) for c in found])

    def variants(self, form: Form, machine: GpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, ClConvolutionConfig)
        changed = [replace(config, pixels=n) for n in steps(config.pixels, _MOST_PIXELS)]
        changed += [replace(config, channels=n) for n in _beside(config.channels, _CHANNELS)]
        changed += [replace(config, block=n) for n in block_choices(form)]
        changed += _other_groups(config, _items_of(form, machine, config), machine)
        yield from (_settled(form, machine, c) for c in changed)

    def drawn(self, form: Form, machine: GpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        config = ClConvolutionConfig(
            pixels=random.randint(1, _MOST_PIXELS),
            channels=random.choice(_CHANNELS),
            block=random.choice(block_choices(form)),
        )
        group = _drawn_group(_items_of(form, machine, config), machine, random)
        return _settled(form, machine, _with_group(config, group))

    def adapted(self, form: Form, machine: GpuMachine, config: Any) -> KernelConfig:
        assert isinstance(form, Convolution) and isinstance(config, ClConvolutionConfig)
        block = config.block if config.block in block_choices(form) else 0
        return _settled(form, machine, replace(config, block=block))

    def features(self, form: Form, machine: GpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, ClConvolutionConfig)
        plan = plan_cl_convolution(form, machine, config)
        ragged = plan.image.out_width % config.pixels / config.pixels
        return {**_features(plan), "block": plan.block, "ragged": ragged}


class ClDepthwiseTemplate:
    name, module, config = "opencl depthwise", "schedules.mali_depthwise", ClDepthwiseConfig

    def takes(self, form: Form, machine: GpuMachine) -> bool:
        return isinstance(form, Convolution) and form.depthwise and refusal(form) is None

    def plan(self, form: Form, machine: GpuMachine, config: KernelConfig) -> KernelPlan:
        assert isinstance(form, Convolution) and isinstance(config, ClDepthwiseConfig)
        if config.pixels * config.channels > _MOST_SUMS:
            raise ValueError(f"{config.pixels}x{config.channels} sums leave no registers")
        plan = plan_cl_depthwise(form, machine, config)
        _check_settled(config, _settled(form, machine, config))
        return plan

    def ordered(self, form: Form, machine: GpuMachine) -> Iterator[KernelConfig]:
        found = [ClDepthwiseConfig(pixels=p, channels=c) for p, c in product((1, 2, 3, 4, 6, 8), _LANES)]
        yield from _by_estimate(self, form, machine, found)

    def variants(self, form: Form, machine: GpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert isinstance(form, Convolution) and isinstance(config, ClDepthwiseConfig)
        changed = [replace(config, pixels=n) for n in steps(config.pixels, _MOST_PIXELS)]
        changed += [replace(config, channels=n) for n in _beside(config.channels, _LANES)]
        changed += _other_groups(config, _items_of(form, machine, config), machine)
        yield from (_settled(form, machine, c) for c in changed)

    def drawn(self, form: Form, machine: GpuMachine, random: Random) -> KernelConfig:
        assert isinstance(form, Convolution)
        config = ClDepthwiseConfig(pixels=random.randint(1, _MOST_PIXELS), channels=random.choice(_LANES))
        group = _drawn_group(_items_of(form, machine, config), machine, random)
        return _settled(form, machine, _with_group(config, group))

    def adapted(self, form: Form, machine: GpuMachine, config: Any) -> KernelConfig:
        assert isinstance(config, ClDepthwiseConfig)
        return _settled(form, machine, config)

    def features(self, form: Form, machine: GpuMachine, config: Any) -> dict[str, float]:
        assert isinstance(form, Convolution) and isinstance(config, ClDepthwiseConfig)
        plan = plan_cl_depthwise(form, machine, config)
        return {**_features(plan), "ragged": form.out_width % config.pixels / config.pixels}


class ClLoopsTemplate:
    name, module, config = "opencl loops", "schedules.mali_loops", ClLoopsConfig

    def takes(self, form: Form, machine: GpuMachine) -> bool:
        if isinstance(form, Convolution):
            return False
        try:
            plan_cl_loops(form, machine)
        except ValueError:
            return False
        return True

    def plan(self, form: Form, machine: GpuMachine, config: KernelConfig) -> KernelPlan:
        assert not isinstance(form, Convolution) and isinstance(config, ClLoopsConfig)
        plan = plan_cl_loops(form, machine, config)
        _check_settled(config, _settled(form, machine, config))
        usual = default_config().vector_bytes
        others = [n for n in _VECTOR_BYTES if n < config.vector_bytes or n == usual]
        for size in others if config.vector_bytes != usual else ():
            if _same(plan, plan_cl_loops(form, machine, replace(config, vector_bytes=size))):
                raise ValueError(f"vectors of {size} bytes hold as many lanes")
        return plan

    def ordered(self, form: Form, machine: GpuMachine) -> Iterator[KernelConfig]:
        yield from _by_estimate(self, form, machine, [ClLoopsConfig(vector_bytes=n) for n in _VECTOR_BYTES])

    def variants(self, form: Form, machine: GpuMachine, config: Any) -> Iterator[KernelConfig]:
        assert not isinstance(form, Convolution) and isinstance(config, ClLoopsConfig)
        changed = [replace(config, vector_bytes=n) for n in _VECTOR_BYTES if n != config.vector_bytes]
        changed += _other_groups(config, _items_of(form, machine, config), machine)
        yield from (_settled(form, machine, c) for c in changed)

    def drawn(self, form: Form, machine: GpuMachine, random: Random) -> KernelConfig:
        config = ClLoopsConfig(vector_bytes=random.choice(_VECTOR_BYTES))
        group = _drawn_group(_items_of(form, machine, config), machine, random)
        return _settled(form, machine, _with_group(config, group))

    def adapted(self, form: Form, machine: GpuMachine, config: Any) -> KernelConfig:
        assert isinstance(config, ClLoopsConfig)
        return _settled(form, machine, config)

    def features(self, form: Form, machine: GpuMachine, config: Any) -> dict[str, float]:
        assert not isinstance(form, Convolution) and isinstance(config, ClLoopsConfig)
        return _features(plan_cl_loops(form, machine, config))


MALI_TEMPLATES: tuple[Template[GpuMachine], ...] = (
    ClConvolutionTemplate(),
    ClDepthwiseTemplate(),
    ClLoopsTemplate(),
)


def _by_estimate(
    template: Template[GpuMachine], form: Form, machine: GpuMachine, configs: Sequence[KernelConfig]
) -> list[KernelConfig]:
    """The legal ones, by rising estimate of their cost."""
    costs: dict[KernelConfig, float] = {}
    for config in configs:
        try:
            template.plan(form, machine, config)
        except ValueError:
            continue
        costs[config] = template.features(form, machine, config)["estimate"]
    return sorted(costs, key=lambda config: costs[config])


def _features(plan: GpuPlan) -> dict[str, float]:
    """Counts of the kernel that takes longest by the estimate; cycles of all, and means of their groups."""
    found = estimates(plan)
    index = max(range(len(found)), key=lambda i: found[i].cycles)
    longest, kernel = found[index], plan.kernels[index]
    x, y, z = (fmean(k.work_group[d] for k in plan.kernels) for d in range(3))
    return {
        "estimate": sum(e.cycles for e in found),
        "operations": longest.operations + longest.dots,
        "accesses": longest.loads + longest.stores,
        "registers": longest.registers,
        "occupancy": longest.occupancy,
        "items": prod(kernel.items),
        "group_x": x,
        "group_y": y,
        "group_z": z,
    }


def _beside(value: int, choices: Sequence[int]) -> list[int]:
    """The next smaller and the next larger choice."""
    below, above = [c for c in choices if c < value], [c for c in choices if c > value]
    return below[-1:] + above[:1]


# Work-groups. A configuration is settled where none that says otherwise makes the same kernels.


def _settled(form: Form, machine: GpuMachine, config: ConfigT) -> ConfigT:
    """The same kernels in the words that stand for them: a group no larger than the work, what a rule chooses
    left to it."""
    if isinstance(config, ClConvolutionConfig):
        assert isinstance(form, Convolution)
        config = replace(config, block=0 if config.block == default_block(form) else config.block)
    items = _items_of(form, machine, config)
    if config.group == BY_RULE:
        return config
    most = [max(covering(i[d]) for i in items) for d in range(3)]
    x, y, z = map(min, config.group, most)
    ruled = all(_within((x, y, z), i) == work_group(i, machine.work_group) for i in items)
    return _with_group(config, BY_RULE if ruled else (x, y, z))


def _within(group: Sizes, items: Sizes) -> Sizes:
    x, y, z = (min(g, covering(n)) for g, n in zip(group, items, strict=True))
    return x, y, z


def _check_settled(config: KernelConfig, settled: KernelConfig) -> None:
    if config != settled:
        raise ValueError(f"{config} makes the kernels of {settled}")


def _with_group(config: ConfigT, group: Sizes) -> ConfigT:
    x, y, z = group
    return replace(config, group_x=x, group_y=y, group_z=z)


def _items_of(form: Form, machine: GpuMachine, config: KernelConfig) -> Sequence[Sizes]:
    """Work-items of each kernel."""
    match config:
        case ClConvolutionConfig():
            assert isinstance(form, Convolution)
            return (ClConvolutionPlan(form, machine, config).items,)
        case ClDepthwiseConfig():
            assert isinstance(form, Convolution)
            return (ClDepthwisePlan(form, machine, config).items,)
        case _:
            assert isinstance(config, ClLoopsConfig)
            return [k.items for k in _loop_kernels(form, machine, config.vector_bytes)]


@lru_cache(256)
def _loop_kernels(form: Form, machine: GpuMachine, vector_bytes: int) -> Sequence[ClKernel]:
    assert not isinstance(form, Convolution)
    return ClLoopsPlan(form, machine, ClLoopsConfig(vector_bytes=vector_bytes)).kernels


def _same(one: ClLoopsPlan, other: ClLoopsPlan) -> bool:
    """Whether the kernels do the same under other names."""
    texts = [[k.source.replace(plan.symbol, "") for k in plan.kernels] for plan in (one, other)]
    return texts[0] == texts[1]


def _other_groups(config: ConfigT, items: Sequence[Sizes], machine: GpuMachine) -> list[ConfigT]:
    """One extent twice or half as large, or two items along one in place of two along another."""
    largest = max(items, key=prod)
    group = work_group(largest, machine.work_group) if config.group == BY_RULE else config.group
    found: list[ConfigT] = []
    for more, fewer in product((None, 0, 1, 2), repeat=2):
        if more == fewer:
            continue
        extents = list(group)
        if more is not None:
            extents[more] *= 2
        if fewer is not None:
            if extents[fewer] == 1:
                continue
            extents[fewer] //= 2
        x, y, z = extents
        if prod(extents) <= machine.work_group and all(
            e <= covering(n) for e, n in zip(extents, largest, strict=True)
        ):
            found.append(_with_group(config, (x, y, z)))
    return found


def _drawn_group(items: Sequence[Sizes], machine: GpuMachine, random: Random) -> Sizes:
    """Any, the rule's among them."""
    largest = max(items, key=prod)
    group, left = [1, 1, 1], random.randint(0, machine.work_group.bit_length() - 1)
    for _ in range(left):
        wider = [d for d in range(3) if 2 * group[d] <= covering(largest[d])]
        if not wider:
            break
        group[random.choice(wider)] *= 2
    x, y, z = group
    return x, y, z
