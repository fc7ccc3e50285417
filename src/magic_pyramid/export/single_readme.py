"""The README of a model exported as one graph, from the same table as its description."""

from collections.abc import Sequence

from magic_pyramid.engine.graph_interface import GRAPH_FILE, GraphInterface, Value, inputs_of, outputs_of

_TEXT = """# One graph for one text a call

`{file}` holds everything: weights, token pruning and early exits ({precision}, opset {opset}).
Any build of ONNX Runtime with the usual operators of `com.microsoft` runs it, also onnxruntime-web.
`tokenizer.json` turns a text into ids. `interface.json` says the same as this page to programs.

Inputs:

{inputs}

Outputs:

{outputs}

Labels, in the order of the logits: {labels}. As stored in the model, `prune_scale` is {prune_scale:g} and
`exit_threshold` is {exit_threshold:g}; 0 and -1 run every token through every layer.

```js
const ort = require("onnxruntime-web"); // or onnxruntime-node
const ids = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
const number = (value) => new ort.Tensor("float32", [value], []);
const session = await ort.InferenceSession.create("{file}");
const answer = await session.run({{
{feeds}
}});
console.log(answer.probabilities.data, answer.exit_layer.data[0]);
```
"""


def readme(interface: GraphInterface) -> str:
    """The page of a folder."""
    inputs = inputs_of(interface.config)
    feeds = {"token_ids": "ids(tokenIds)", "token_type_ids": "ids(tokenTypeIds)"}
    feeds |= {name: f"number({value:g})" for name, value in interface.defaults.items()}
    return _TEXT.format(
        file=GRAPH_FILE,
        precision=interface.precision,
        opset=interface.opset,
        inputs=_table(inputs),
        outputs=_table(outputs_of(interface.config)),
        labels=", ".join(f"`{label}`" for label in interface.config.labels),
        feeds="\n".join(f"  {value.name}: {feeds[value.name]}," for value in inputs if not value.is_optional),
        **interface.defaults,
    )


def _table(values: Sequence[Value]) -> str:
    rows = [f"| `{value.name}` | {value.type} | {_sizes(value)} | {value.meaning} |" for value in values]
    return "\n".join(["| name | type | shape | meaning |", "|---|---|---|---|", *rows])


def _sizes(value: Value) -> str:
    return f"[{', '.join(map(str, value.shape))}]" if value.shape else "one number"
