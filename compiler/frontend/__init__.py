"""ONNX files to float graphs: `reading.load_model`, then `importing.import_graph`.

Protocol buffers and the onnx package end at this package's border. `onnx` is imported inside functions, so
that a file that is no model at all is refused at once. Models that are quantized already (QDQ, QOperator,
QONNX) will enter here too, in a file of their own that turns their nodes into quantized types; today
`importing` refuses them.
"""

from compiler.frontend.importing import import_graph
from compiler.frontend.reading import Model, load_model

__all__ = ["Model", "import_graph", "load_model"]
