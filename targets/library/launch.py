"""What an OpenCL device is told to run."""

from dataclasses import dataclass

Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel over `global_size` work-items in groups of `work_group`. Its arguments are, for each operand
    of the step, a memory object and a byte offset."""

    kernel: str
    global_size: Size
    work_group: Size
