"""What a board tells of itself, for people and for records."""

from __future__ import annotations

from collections.abc import Mapping

# Arm Ltd.'s cores by "CPU part" of /proc/cpuinfo.
_PARTS = {
    "0xd03": "cortex-a53",
    "0xd04": "cortex-a35",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
    "0xd46": "cortex-a510",
    "0xd47": "cortex-a710",
    "0xd49": "neoverse-n2",
}
_ARM = "0x41"


def cpu_of(facts: Mapping[str, str]) -> str:
    """The core's name, as far as the system tells it."""
    implementer, _, part = facts.get("part", "").partition("/")
    if implementer == _ARM and part in _PARTS:
        return _PARTS[part]
    return facts.get("cpu") or facts.get("part") or facts.get("machine", "unknown")


def fingerprint_of(facts: Mapping[str, str]) -> str:
    """Names all boards on which costs are the same: model, core, and the highest clock."""
    parts = [facts.get("model"), cpu_of(facts)]
    if "clock_khz" in facts:
        parts.append(f"{int(facts['clock_khz']) // 1000} MHz")
    return ", ".join(part for part in parts if part)


def celsius_of(facts: Mapping[str, str]) -> float | None:
    """The hottest sensor's temperature."""
    text = facts.get("millidegrees", "")
    return int(text) / 1000 if text.lstrip("-").isdigit() else None


def throttling_of(facts: Mapping[str, str]) -> str | None:
    """What slows the CPU down now, in words; None where nothing does, or nothing is known."""
    flags = facts.get("throttled", "")
    if flags.startswith("0x"):
        now = int(flags, 16)
        causes = {0: "too low a voltage", 1: "a capped clock", 2: "throttling", 3: "the temperature limit"}
        found = [words for bit, words in causes.items() if now >> bit & 1]
        if found:
            return ", ".join(found)
    cooling = facts.get("cooling", "0")
    return f"the system's cooling (state {cooling})" if cooling.isdigit() and int(cooling) > 0 else None


def warnings_of(facts: Mapping[str, str]) -> list[str]:
    """What makes measurements on this board doubtful."""
    found: list[str] = []
    governor = facts.get("governor")
    if governor and governor != "performance":
        found.append(f'the CPU governor is "{governor}": its clock changes; set it to "performance"')
    slowed = throttling_of(facts)
    if slowed:
        found.append(f"it is slowed down by {slowed}: give it air or a better supply")
    return found
